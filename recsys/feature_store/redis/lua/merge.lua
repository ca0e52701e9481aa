-- The rest of append.lua: late events, equal timestamps, new histories, chunks that are full.

local history, problem = read_history(new_chunk)
if problem then return problem end
if header == '' and redis.call('LLEN', sealed_key) > 0 then return redis.error_reply('HALFHISTORY ' .. sealed_key) end
local stored = history.appended - history.trimmed

-- Those of merged records that no stored one has the time and identity of.
local function records_added(stored, merged, identity)
  local seen, added = {}, {}
  local function name_of(records, i)
    local name = {records:sub(i * width + 9, i * width + 16)}
    for from, to in identity:gmatch('(%d+)-(%d+)') do name[#name + 1] = records:sub(i * width + from, i * width + to) end
    return table.concat(name)
  end
  for i = 0, #stored / width - 1 do seen[name_of(stored, i)] = true end
  for i = 0, #merged / width - 1 do
    if not seen[name_of(merged, i)] then added[#added + 1] = slice(merged, i, i + 1) end
  end
  return table.concat(added)
end

-- What is not newer than everything trimmed may have been here and gone.
local first, count = 0, #batch / width
while first < count and time_at(batch, first) <= history.trimmed_until do first = first + 1 end
batch = slice(batch, first, count)
if last_offset ~= '' then
  remember_offset()
  if ttl_s > 0 then redis.call('EXPIRE', offsets_key, ttl_s) end
end
if batch == '' then return {0, stored, skipped, wants_records and '' or nil} end

-- Sealed chunks are opened again as far as the oldest new event reaches.
local oldest, parts, reopened = time_at(batch, 0), {history.open}, 0
local reaches = history.open == '' or time_at(history.open, 0) >= oldest
while reaches and reopened < history.sealed do
  reopened = reopened + 1
  parts[reopened + 1] = redis.call('LINDEX', sealed_key, -reopened)
  reaches = time_at(parts[reopened + 1], 0) >= oldest
end
for i = 1, math.floor(#parts / 2) do parts[i], parts[#parts + 1 - i] = parts[#parts + 1 - i], parts[i] end
local records = table.concat(parts)

local low, high = 0, #records / width
if oldest > history.newest then
  low = high
else
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_at(records, middle) < oldest then low = middle + 1 else high = middle end
  end
end
local tail, merged = slice(records, low, #records / width), batch
if tail ~= '' then merged = merge(tail, batch, ARGV[1]:sub(IDENTITY)) end
local added = (#merged - #tail) / width
if merged ~= tail then
  if merged:sub(1, #tail) ~= tail then history.rewritten = (history.rewritten + 1) % 4294967296 end
  local kept = slice(records, 0, low) .. merged
  -- Where the declared identity is another than it was, stored events may turn out to be repetitions.
  history.appended = history.appended + math.max(added, 0)
  history.trimmed = history.trimmed + math.max(-added, 0)
  added = math.max(added, 0)
  while #kept < history.chunk * width and reopened < history.sealed do
    reopened = reopened + 1
    kept = redis.call('LINDEX', sealed_key, -reopened) .. kept
  end
  local expired_before = max_age_ms > 0 and tonumber(ARGV[3]) - max_age_ms
  write_history(history, kept, reopened, max_events, expired_before, ttl_s)
end
local records_of = wants_records and records_added(tail, merged, ARGV[1]:sub(IDENTITY)) or nil
return {added, history.appended - history.trimmed, skipped, records_of}
