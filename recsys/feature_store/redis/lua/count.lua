-- Adds to the counts of items in one part of one shard, atomically. docs/specs/redis_format.md says what they mean.
--
-- KEYS  1 the part's hash
-- ARGV  1 when the part ends to be kept, seconds since 1970, 2 most items of the hash, then item, number, item, number ...
-- returns  the items that were not counted, as the hash has as many as it may

local key, most, refused = KEYS[1], tonumber(ARGV[2]), {}
-- Nearly always there is room for all of them, and nothing need be asked of each.
local has_room = redis.call('HLEN', key) + (#ARGV - 2) / 2 <= most
for i = 3, #ARGV, 2 do
  if has_room or redis.call('HLEN', key) < most or redis.call('HEXISTS', key, ARGV[i]) == 1 then
    redis.call('HINCRBYFLOAT', key, ARGV[i], ARGV[i + 1])
  else
    refused[#refused + 1] = ARGV[i]
  end
end
redis.call('EXPIREAT', key, ARGV[1])
return refused
