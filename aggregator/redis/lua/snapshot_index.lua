-- Returns the names and sizes of some sections, so that the caller reads pieces of a known size.
--
-- KEYS[1] sections
-- ARGV[1] cursor, "0" to begin; ARGV[2] about how many sections
-- Returns {cursor ("0" at the end), names, bytes of each}.

-- NOVALUES (Redis 7.4, Valkey 8): with values one call would copy megabytes into Lua.
local found = redis.call("HSCAN", KEYS[1], ARGV[1], "COUNT", ARGV[2], "NOVALUES")
local names, sizes = found[2], {}
for i = 1, #names do sizes[i] = redis.call("HSTRLEN", KEYS[1], names[i]) end
return {found[1], names, sizes}
