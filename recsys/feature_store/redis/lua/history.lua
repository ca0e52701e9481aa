-- Functions of every program that changes a history. What they use of it: HEADER, key, sealed_key,
-- offsets_key, prefix, width.

local IDENTITY = 45 -- where in the rules the identity starts

local function time_at(records, index)
  return (struct.unpack('<i8', records, index * width + 9))
end

local function arrival_at(records, index)
  return (struct.unpack('<i8', records, index * width + 17))
end

local function slice(records, first, last)
  return records:sub(first * width + 1, last * width)
end

local function bad(header)
  return redis.error_reply('BADHISTORY ' .. (header:gsub('.', function(byte)
    return string.format('%02x', byte:byte())
  end)))
end

-- The history as a table, or nil and the error to answer with.
local function read_history(new_chunk)
  local header = redis.pcall('GETRANGE', key, 0, HEADER - 1)
  local sealed = redis.pcall('LLEN', sealed_key)
  if type(header) == 'table' then return nil, redis.error_reply('WRONGKEY ' .. key) end
  if type(sealed) == 'table' then return nil, redis.error_reply('WRONGKEY ' .. sealed_key) end
  if header == '' then
    return {chunk = new_chunk, rewritten = 0, appended = 0, trimmed = 0, trimmed_until = -1, newest = -1,
            open = '', sealed = 0}
  end
  if #header < HEADER or header:sub(1, 16) ~= prefix then return nil, bad(header) end
  local history = {open = redis.call('GETRANGE', key, HEADER, -1), sealed = sealed}
  history.chunk, history.rewritten, history.appended, history.trimmed, history.trimmed_until, history.newest =
    struct.unpack('<I4I4I8I8i8i8', header, 17)
  if history.chunk < 1 then return nil, bad(header) end
  local expected = history.appended - history.trimmed - #history.open / width
  if sealed == 0 and expected > 0 and expected % history.chunk == 0 then
    -- Evicted by Redis for want of memory: what is gone counts as trimmed.
    history.trimmed, history.rewritten = history.trimmed + expected, history.rewritten + 1
  elseif expected ~= sealed * history.chunk then
    return nil, bad(header)
  end
  return history
end

-- Record order among equal timestamps: arrival, then bytes. (Lua's < on strings follows the locale.)
local function before(one, other)
  local a, b = arrival_at(one, 0), arrival_at(other, 0)
  if a ~= b then return a < b end
  for i = 1, width do
    a, b = one:byte(i), other:byte(i)
    if a ~= b then return a < b end
  end
  return false
end

-- Two sets of records of one timestamp as one, in order, each identity once: the one that arrived first.
local function union(first, second, identity)
  local records, seen, distinct = {}, {}, {}
  for _, set in ipairs({first, second}) do
    for i = 0, #set / width - 1 do records[#records + 1] = slice(set, i, i + 1) end
  end
  table.sort(records, before)
  for _, record in ipairs(records) do
    local name = {}
    for from, to in identity:gmatch('(%d+)-(%d+)') do name[#name + 1] = record:sub(from, to) end
    name = table.concat(name)
    if not seen[name] then
      seen[name] = true
      distinct[#distinct + 1] = record
    end
  end
  return table.concat(distinct)
end

-- Two canonical runs of records as one.
local function merge(stored, batch, identity)
  local merged, i, j = {}, 0, 0
  local stored_count, batch_count = #stored / width, #batch / width
  -- Nothing stored yet, or all of it sent again.
  if stored == '' then return batch end
  if stored:sub(1, #batch) == batch then return stored end
  while j < batch_count do
    local time, from = time_at(batch, j), i
    while i < stored_count and time_at(stored, i) < time do i = i + 1 end
    if i > from then merged[#merged + 1] = slice(stored, from, i) end
    local same_stored, same_batch = i, j
    while i < stored_count and time_at(stored, i) == time do i = i + 1 end
    while j < batch_count and time_at(batch, j) == time do j = j + 1 end
    local new = slice(batch, same_batch, j)
    local old = slice(stored, same_stored, i)
    if old == '' or old == new then
      merged[#merged + 1] = new
    else
      merged[#merged + 1] = union(old, new, identity)
    end
  end
  if i < stored_count then merged[#merged + 1] = slice(stored, i, stored_count) end
  return table.concat(merged)
end

-- How many of the oldest chunks may go, and the newest timestamp in them. A chunk goes when it is too old, or
-- when what is newer than all of it is enough: then every timestamp is complete or gone, and a repeated
-- event can be told from a new one. Were thousands of events of one timestamp, the cut would wait; twice
-- the size is too much all the same.
local function surplus(history, chunks, chunk_at, time_of, max_events, expired_before)
  local count, trimmed_until = 0, history.trimmed_until
  local stored = history.appended - history.trimmed
  local oldest_kept
  while count < chunks do
    local left = stored - (count + 1) * history.chunk
    local enough = left >= max_events
    if not enough and not expired_before then break end
    local last = time_at(chunk_at(count), history.chunk - 1)
    if enough then
      oldest_kept = oldest_kept or time_of(stored - max_events)
      enough = oldest_kept > last or left > 2 * max_events + 4 * history.chunk
    end
    if not enough and not (expired_before and last < expired_before) then break end
    count, trimmed_until = count + 1, math.max(trimmed_until, last)
  end
  return count, trimmed_until
end

-- Stores the history with these records in place of its open part and its `reopened` newest chunks.
local function write_history(history, records, reopened, max_events, expired_before, ttl_s)
  local chunk, kept = history.chunk, history.sealed - reopened
  local seal = math.max(0, math.floor(#records / width / chunk) - 1)
  if #records == 0 and kept == 0 and history.appended == 0 then return end
  local function chunk_at(index)
    if index < kept then return redis.call('LINDEX', sealed_key, index) end
    return slice(records, (index - kept) * chunk, (index - kept + 1) * chunk)
  end
  local function time_of(index)
    if index >= kept * chunk then return time_at(records, index - kept * chunk) end
    return time_at(chunk_at(math.floor(index / chunk)), index % chunk)
  end
  local gone, trimmed_until = surplus(history, kept + seal, chunk_at, time_of, max_events, expired_before)
  history.trimmed, history.trimmed_until = history.trimmed + gone * chunk, trimmed_until
  local open = records:sub(seal * chunk * width + 1)
  local newest = records == '' and -1 or time_at(records, #records / width - 1)
  -- The first write is one that Redis refuses when it is out of memory, so a refusal changes nothing.
  redis.call('SET', key, prefix .. struct.pack('<I4I4I8I8i8i8', chunk, history.rewritten, history.appended,
    history.trimmed, history.trimmed_until, newest) .. open)
  if kept == 0 then
    redis.call('DEL', sealed_key)
  elseif reopened > 0 then
    redis.call('LTRIM', sealed_key, 0, kept - 1)
  end
  for index = math.max(0, gone - kept), seal - 1 do
    redis.call('RPUSH', sealed_key, slice(records, index * chunk, (index + 1) * chunk))
  end
  if gone > 0 and kept > 0 then redis.call('LTRIM', sealed_key, math.min(gone, kept), -1) end
  if ttl_s > 0 then
    for _, name in ipairs({key, sealed_key, offsets_key}) do redis.call('EXPIRE', name, ttl_s) end
  end
end
