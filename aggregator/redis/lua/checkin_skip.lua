-- An operator allows claims in this run although archivers have not checked in.
--
-- KEYS[1] checkin:<topic>, KEYS[2] archive:<topic>
-- Returns 0 if claims were allowed already, else 1.

if redis.call("GET", KEYS[1]) == RUN_ID then return 0 end
redis.call("SET", KEYS[1], RUN_ID)
-- Shown as degraded until the archivers have checked in (checkin.lua removes it).
redis.call("HSET", KEYS[2], "skipped", RUN_ID)
return 1
