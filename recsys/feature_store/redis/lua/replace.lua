-- Puts a whole history in place of what is stored, atomically. The program is this file up to the mark, history.lua,
-- and the rest of this file.
--
-- KEYS  as for append.lua
-- ARGV  1, 2 as for append.lua, 3 keep stored events that arrived after this time (ms),
--       4 trimmed_until: the newest timestamp that the new records may lack
-- returns  {events stored now that arrived after ARGV[3] and are not among the records, events stored now}

local HEADER = 56
local key, sealed_key, offsets_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, width, new_chunk, max_events, _, ttl_s = struct.unpack('<c16I4I4i8i8I4', ARGV[1])
local batch = ARGV[2]

---- history.lua

local history, problem = read_history(new_chunk)
if problem then return problem end
local parts = redis.call('LRANGE', sealed_key, 0, -1)
parts[#parts + 1] = history.open
local stored, kept = table.concat(parts), {}
for i = 0, #stored / width - 1 do
  -- What is older than the cut would stand before a gap.
  if arrival_at(stored, i) > tonumber(ARGV[3]) and time_at(stored, i) > tonumber(ARGV[4]) then kept[#kept + 1] = slice(stored, i, i + 1) end
end
local records = merge(table.concat(kept), batch, ARGV[1]:sub(IDENTITY))
-- Event numbers are never given twice: everything old counts as trimmed.
history.trimmed = history.appended
history.appended = history.appended + #records / width
history.rewritten = (history.rewritten + 1) % 4294967296
history.trimmed_until = tonumber(ARGV[4])
write_history(history, records, history.sealed, max_events, false, ttl_s)
return {(#records - #batch) / width, history.appended - history.trimmed}
