-- Gives the records of a history the attributes that were added since, atomically. Read as replace.lua is.
--
-- KEYS  as for append.lua
-- ARGV  1 the first 16 bytes of the old header, 2 the old record width, 3 the first 16 bytes of the new header,
--       4 the new record width, 5 the bytes that follow an old record
-- returns  1 if the history was upgraded, 0 if it is no longer of the old layout

local HEADER = 56
local key, sealed_key, offsets_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, width = ARGV[1], tonumber(ARGV[2])

---- history.lua

local history, problem = read_history(1)
if problem or history.open == '' then return 0 end
local parts, wider = redis.call('LRANGE', sealed_key, 0, -1), {}
parts[#parts + 1] = history.open
local stored = table.concat(parts)
for i = 0, #stored / width - 1 do wider[#wider + 1] = slice(stored, i, i + 1) .. ARGV[5] end
local ttl_ms = redis.call('PTTL', key)
prefix, width = ARGV[3], tonumber(ARGV[4])
write_history(history, table.concat(wider), history.sealed, 2 ^ 53, false, 0)
if ttl_ms > 0 then
  redis.call('PEXPIRE', key, ttl_ms)
  redis.call('PEXPIRE', sealed_key, ttl_ms)
end
return 1
