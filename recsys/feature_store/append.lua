-- Adds a batch of packed events to one history, atomically.
-- docs/specs/redis_format.md says what the bytes mean and what this promises.
--
-- KEYS[1]  the history
-- ARGV     first 16 bytes of a header (magic, version, width, layout), record width in bytes,
--          max_events, ttl_s, records sorted by timestamp
-- returns  {events added, events stored now}
-- errors   WRONGTYPE: the key is no string
--          BADHISTORY <header in hex>: the string is no history this caller may extend
-- After an error nothing has changed.
--
-- Numbers in Lua are doubles: timestamps and counters stay below 2^53 and are exact, item keys
-- (62 bits) are not, so they are only ever compared as bytes.

local HEADER = 32
local key, prefix, batch = KEYS[1], ARGV[1], ARGV[5]
local width, max_events, ttl_s = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local batch_count = #batch / width

local function time_at(records, index)
  return (struct.unpack('<i8', records, index * width + 9))
end

local function slice(records, first, last)
  return records:sub(first * width + 1, last * width)
end

-- Everything but the arrival time: a source that sends an event again stamps a new arrival on it.
local function identity(records, index)
  local start = index * width
  return records:sub(start + 1, start + 16) .. records:sub(start + 25, start + width)
end

local function stored_time(index)
  local start = HEADER + index * width + 8
  return (struct.unpack('<i8', redis.call('GETRANGE', key, start, start + 7)))
end

local header = redis.pcall('GETRANGE', key, 0, HEADER - 1)
if type(header) == 'table' then
  return redis.error_reply('WRONGTYPE the key holds no string')
end
local appended, trimmed = 0, 0
if header ~= '' then
  local ours = #header == HEADER and header:sub(1, 16) == prefix
  if ours then
    appended, trimmed = struct.unpack('<I8I8', header, 17)
    ours = redis.call('STRLEN', key) == HEADER + (appended - trimmed) * width
  end
  if not ours then
    return redis.error_reply('BADHISTORY ' .. (header:gsub('.', function(byte)
      return string.format('%02x', byte:byte())
    end)))
  end
end
local stored = appended - trimmed
if batch_count == 0 then
  return {0, stored}
end

-- Where the batch goes: at the end, unless its oldest event is not newer than the newest stored.
local position = stored
if stored > 0 and time_at(batch, 0) <= stored_time(stored - 1) then
  local low, high, oldest_new = 0, stored, time_at(batch, 0)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if stored_time(middle) < oldest_new then low = middle + 1 else high = middle end
  end
  position = low
end
local tail, tail_count = '', stored - position
if tail_count > 0 then
  tail = redis.call('GETRANGE', key, HEADER + position * width, -1)
end

-- Merge. Among equal timestamps stored events come first, so order of arrival is kept.
local merged, added, i, j = {}, 0, 0, 0
if trimmed > 0 and position == 0 and stored > 0 then
  -- What is older than the oldest stored event may have been here and gone.
  local oldest = time_at(tail, 0)
  while j < batch_count and time_at(batch, j) < oldest do j = j + 1 end
end
while j < batch_count do
  local time, last = time_at(batch, j), j + 1
  while last < batch_count and time_at(batch, last) == time do last = last + 1 end
  local from = i
  while i < tail_count and time_at(tail, i) < time do i = i + 1 end
  local seen, same_from = {}, i
  while i < tail_count and time_at(tail, i) == time do
    seen[identity(tail, i)] = true
    i = i + 1
  end
  if i > from then merged[#merged + 1] = slice(tail, from, i) end
  if last == j + 1 and i == same_from then
    merged[#merged + 1] = slice(batch, j, last)
    added = added + 1
  else
    for k = j, last - 1 do
      local id = identity(batch, k)
      if not seen[id] then
        seen[id] = true
        merged[#merged + 1] = slice(batch, k, k + 1)
        added = added + 1
      end
    end
  end
  j = last
end
if added == 0 then
  return {0, stored}
end
if i < tail_count then merged[#merged + 1] = slice(tail, i, tail_count) end
local records = table.concat(merged)

-- The first write is one that Redis refuses when it is out of memory, so a refusal changes nothing.
if header == '' then
  redis.call('SET', key, prefix .. struct.pack('<I8I8', added, 0) .. records)
else
  if position == stored then
    redis.call('APPEND', key, records)
  else
    redis.call('SETRANGE', key, HEADER + position * width, records)
  end
  redis.call('SETRANGE', key, 16, struct.pack('<I8I8', appended + added, trimmed))
end
appended, stored = appended + added, stored + added

-- Trimming rewrites the value, so it waits until there is enough to trim. It cuts between two
-- timestamps: were some of a timestamp's events gone, a repeated one could not be told from a new
-- one. A history of a single timestamp is still bounded, at twice the size.
local limit = max_events + math.max(64, math.floor(max_events / 4))
if stored > limit then
  records = redis.call('GETRANGE', key, HEADER, -1)
  local newest_cut = stored - max_events
  local cut = newest_cut
  while cut > 0 and time_at(records, cut - 1) == time_at(records, newest_cut) do cut = cut - 1 end
  if cut == 0 and stored > 2 * limit then cut = newest_cut end
  if cut > 0 then
    trimmed, stored = trimmed + cut, stored - cut
    redis.call('SET', key, prefix .. struct.pack('<I8I8', appended, trimmed) .. slice(records, cut, cut + stored))
  end
end
if ttl_s > 0 then
  redis.call('EXPIRE', key, ttl_s)
end
return {added, stored}
