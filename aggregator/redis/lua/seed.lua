-- Restores markers from rows of the archive. If a marker names another position, the archive wins:
-- readers of the archive have seen its row.
--
-- ARGV[1] marker TTL in ms
-- ARGV[2] kinds, one letter per row: S swap, R retraction
-- ARGV[3] verdicts, one letter per row: C counted, L late, U undone, V void
-- ARGV[4] markers, 16 bytes per row
-- ARGV[5] positions "<partition>:<offset>", joined by ","
-- The format of a marker is that of claim.lua.

local ttl, kinds, verdicts, markers = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local byte, sub = string.byte, string.sub

local i = 0
for position in string.gmatch(ARGV[5], "[^,]+") do
  i = i + 1
  local key = "dedupe:" .. sub(markers, i * 16 - 15, i * 16)
  local verdict = sub(verdicts, i, i)
  -- A row replaces its own half of the marker only: a swap and its retraction are two rows, which
  -- come in any order.
  local value = redis.call("GET", key) or ""
  local cut = string.find(value, ";", 1, true)
  local swap = cut and sub(value, 1, cut - 1) or value
  local retraction = cut and sub(value, cut + 1) or nil
  if byte(kinds, i) == 83 then
    swap = position .. (verdict == "C" and "" or verdict)
  else
    retraction = position .. verdict
  end
  if retraction then
    if swap ~= "" then
      -- The archive also undoes late swaps, so its letter may be U where the windows need V. A
      -- marker holds the letter of the windows: U only if the swap was counted.
      local counted = string.match(swap, "%d$") ~= nil
      retraction = sub(retraction, 1, -2) .. (counted and "U" or "V")
    end
    value = swap .. ";" .. retraction
  else
    value = swap
  end
  redis.call("SET", key, value, "PX", ttl)
end
