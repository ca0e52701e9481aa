-- Adds a batch of events to one history, atomically. docs/specs/redis_format.md says what the bytes mean
-- and what this promises. The program is this file, history.lua and merge.lua, one after the other:
-- here is the usual case, a batch that is newer than everything stored; it needs none of the functions below.
--
-- KEYS  1 the open part of the history (header and newest records), 2 its sealed chunks, 3 offsets by source
-- ARGV  1 rules: the first 16 bytes of a header (magic, version, width, layout); record width in bytes u32, records
--         per chunk of a new history u32, max_events i64, max_age_ms i64, ttl_s u32; then which bytes of a record
--         identify it: "first-last" pairs, counted from 1, separated by blanks
--       2 records in canonical order, 3 the newest arrival among them, if max_age_ms is set
--       4 their source, if they have one, 5 their offsets in it, 20 digits each, 6 most by which an offset may exceed the
--         last one applied, 'restart' to forget that, or nothing, 7 the time in seconds, 8 'records' to return those added
-- returns  {events added, events stored now, events skipped for their offsets}, and the records added if asked for
-- errors   WRONGKEY <key>: it holds another type
--          BADHISTORY <header in hex>: the value is no history this caller may extend
--          HALFHISTORY <key>: there are sealed chunks, but no open part
--          BADOFFSET <key>: what is stored for the source is no offset
--          OFFSETJUMP <last> <newest> <most>: the newest offset is too far beyond the last one applied (-: none was)
-- After an error nothing has changed.
--
-- Numbers in Lua are doubles: timestamps and counters stay below 2^53 and are exact, item keys
-- (62 bits) and offsets are not, so those are only compared as text.

local HEADER = 56
local key, sealed_key, offsets_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, width, new_chunk, max_events, max_age_ms, ttl_s = struct.unpack('<c16I4I4i8i8I4', ARGV[1])
local batch, source, offsets = ARGV[2], ARGV[4] or '', ARGV[5]
local wants_records = ARGV[8] == 'records'

local MOST_SOURCES = 256
local LAST_OFFSET = '09223372036854775807'
local last_offset, stored_offset, skipped = '', '', 0
if source ~= '' then
  stored_offset = redis.pcall('HGET', offsets_key, source) or ''
  if type(stored_offset) == 'table' then return redis.error_reply('WRONGKEY ' .. offsets_key) end
  local done, rule = stored_offset:sub(1, 20), ARGV[6]
  if rule == 'restart' then
    done = ''
  elseif done ~= '' and (#done < 20 or done:find('%D') or done > LAST_OFFSET) then
    return redis.error_reply('BADOFFSET ' .. offsets_key)
  end
  local kept = {}
  for i = 0, #batch / width - 1 do
    local offset = offsets:sub(i * 20 + 1, i * 20 + 20)
    if offset > done then kept[#kept + 1] = batch:sub(i * width + 1, (i + 1) * width) end
    if offset > last_offset then last_offset = offset end
  end
  -- As doubles: near enough for a bound of billions.
  local most = tonumber(rule)
  if most and last_offset ~= '' and tonumber(last_offset) - (tonumber(done) or 0) > most then
    return redis.error_reply('OFFSETJUMP ' .. (done == '' and '-' or done) .. ' ' .. last_offset .. ' ' .. rule)
  end
  if last_offset <= done then last_offset = '' end
  skipped = #batch / width - #kept
  batch = table.concat(kept)
end

-- Stores the last offset, and when: of too many sources the one goes that was not heard of for the longest.
local function remember_offset()
  if last_offset == '' then return end
  if stored_offset == '' and redis.call('HLEN', offsets_key) >= MOST_SOURCES then
    local all, oldest, oldest_s = redis.call('HGETALL', offsets_key), nil, nil
    for i = 1, #all, 2 do
      local at_s = tonumber(all[i + 1]:sub(22)) or 0
      if not oldest or at_s < oldest_s then oldest, oldest_s = all[i], at_s end
    end
    redis.call('HDEL', offsets_key, oldest)
  end
  redis.call('HSET', offsets_key, source, last_offset .. ' ' .. ARGV[7])
end

local header = redis.pcall('GETRANGE', key, 0, HEADER - 1)
if #header == HEADER and header:sub(1, 16) == prefix and batch ~= '' then
  local chunk, _, appended, trimmed, _, newest = struct.unpack('<I4I4I8I8i8i8', header, 17)
  local open_bytes = redis.call('STRLEN', key) - HEADER
  local sealed = (appended - trimmed - open_bytes / width) / chunk
  if struct.unpack('<i8', batch, 9) > newest and open_bytes + #batch < 2 * chunk * width
    and sealed >= 0 and sealed == math.floor(sealed) then
    appended = appended + #batch / width
    -- The first write is one that Redis refuses when it is out of memory, so a refusal changes nothing.
    redis.call('APPEND', key, batch)
    redis.call('SETRANGE', key, 24, struct.pack('<I8', appended) .. header:sub(33, 48) .. batch:sub(8 - width, 15 - width))
    remember_offset()
    if ttl_s > 0 then
      for _, name in ipairs(KEYS) do redis.call('EXPIRE', name, ttl_s) end
    end
    return {#batch / width, appended - trimmed, skipped, wants_records and batch or nil}
  end
end
