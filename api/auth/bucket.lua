-- Charge token buckets: all of them, or none if one does not hold the cost.
-- KEYS: one per bucket. ARGV: the cost, then for each bucket its rate a second and its burst.
-- A key holds the instant at which its bucket will be full again, in µs of this server's clock. This
-- is the generic cell rate algorithm of ITU-T I.371: it equals a token bucket and stores no float.
-- Returns {1 or 0, µs to wait, then for each bucket what is left and µs until it is full}.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local full_at, answer, wait = {}, {}, 0
for i, key in ipairs(KEYS) do
  local interval = 1000000 / ARGV[2 * i]
  local burst = tonumber(ARGV[2 * i + 1])
  local before = math.max(tonumber(redis.call('GET', key)) or now, now)
  local after = before + math.min(ARGV[1], burst) * interval
  wait = math.max(wait, after - now - burst * interval)
  full_at[i] = {before, after, interval, burst}
end
local passes = wait < 1
for i, key in ipairs(KEYS) do
  local before, after, interval, burst = unpack(full_at[i])
  if passes then
    before = after
    -- tostring() would round to 14 digits and lose the microseconds
    redis.call('SET', key, string.format('%.0f', math.ceil(after)),
      'PX', math.ceil((after - now) / 1000) + 1000)
  end
  answer[2 * i - 1] = math.max(0, math.floor(burst - (before - now) / interval))
  answer[2 * i] = math.ceil(before - now)
end
return {passes and 1 or 0, math.ceil(wait), unpack(answer)}
