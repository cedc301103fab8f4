-- Precedes every script: refuses a call that was sent for another run of Redis.
--
-- session.py puts REPLICATION_ID and TOKEN (a SHA-1) of the bound run in front of this text. The
-- check is part of the script, which is atomic: no promotion or flush comes between the check and
-- the call. A restart needs no check: a restarted server has no scripts and answers NOSCRIPT.

-- The block keeps its local out of the script that follows.
do
  local replication = redis.call("INFO", "replication")
  -- A replica would refuse writes only, and answer reads with data that may be old.
  if not string.find(replication, "role:master", 1, true) then
    return redis.error_reply("READONLY this server is a replica")
  end
  -- A promoted replica gets a new replication id, and may miss the last writes of the old master.
  if not string.find(replication, "master_replid:" .. REPLICATION_ID, 1, true) then
    return redis.error_reply("NEWRUN this server was promoted since it was connected")
  end
  -- A flush keeps both server ids, and deletes the token.
  if redis.sha1hex(redis.call("GET", "run:token") or "") ~= TOKEN then
    return redis.error_reply("NEWRUN this server was flushed since it was connected")
  end
end
