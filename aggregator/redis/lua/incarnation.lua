-- Precedes every script: refuses a call that was meant for another run of Redis.
--
-- REPLICATION_ID and TOKEN (its SHA-1) are those of the run that was connected. The check is part of the script,
-- so nothing is read or written between it and the call.

do
  local replication = redis.call("INFO", "replication")
  if not string.find(replication, "role:master", 1, true) then
    return redis.error_reply("READONLY this server is a replica")
  end
  if not string.find(replication, "master_replid:" .. REPLICATION_ID, 1, true) then
    return redis.error_reply("NEWRUN this server was promoted since it was connected")
  end
  if redis.sha1hex(redis.call("GET", "run:token") or "") ~= TOKEN then
    return redis.error_reply("NEWRUN this server was flushed since it was connected")
  end
end
