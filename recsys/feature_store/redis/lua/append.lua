-- Adds a batch of events to one history, atomically. docs/specs/redis_format.md says what the bytes mean
-- and what this promises. The program is this file, history.lua and merge.lua, one after the other:
-- here is the usual case, a batch that is newer than everything stored; it needs none of the functions below.
--
-- KEYS  1 the open part of the history (header and newest records), 2 its sealed chunks, 3 offsets by source
-- ARGV  1 rules: the first 16 bytes of a header (magic, version, width, layout); record width in bytes u32, records
--         per chunk of a new history u32, max_events i64, max_age_ms i64, ttl_s u32; then which bytes of a record
--         identify it: "first-last" pairs, counted from 1, separated by blanks
--       2 records in canonical order, 3 the newest arrival among them, if max_age_ms is set
--       4 their source, if they have one, 5 their offsets in it, 20 digits each
-- returns  {events added, events stored now}
-- errors   WRONGKEY <key>: it holds another type
--          BADHISTORY <header in hex>: the value is no history this caller may extend
-- After an error nothing has changed.
--
-- Numbers in Lua are doubles: timestamps and counters stay below 2^53 and are exact, item keys
-- (62 bits) and offsets are not, so those are only compared as text.

local HEADER = 56
local key, sealed_key, offsets_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, width, new_chunk, max_events, max_age_ms, ttl_s = struct.unpack('<c16I4I4i8i8I4', ARGV[1])
local batch, source, offsets = ARGV[2], ARGV[4] or '', ARGV[5]

local last_offset = ''
if source ~= '' then
  local done = redis.pcall('HGET', offsets_key, source) or ''
  if type(done) == 'table' then return redis.error_reply('WRONGKEY ' .. offsets_key) end
  local kept = {}
  for i = 0, #batch / width - 1 do
    local offset = offsets:sub(i * 20 + 1, i * 20 + 20)
    if offset > done then kept[#kept + 1] = batch:sub(i * width + 1, (i + 1) * width) end
    if offset > last_offset then last_offset = offset end
  end
  if last_offset <= done then last_offset = '' end
  batch = table.concat(kept)
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
    if last_offset ~= '' then redis.call('HSET', offsets_key, source, last_offset) end
    if ttl_s > 0 then
      for _, name in ipairs(KEYS) do redis.call('EXPIRE', name, ttl_s) end
    end
    return {#batch / width, appended - trimmed}
  end
end
