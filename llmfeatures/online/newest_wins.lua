-- Every change of the online layout (format 1), each atomic. KEYS[1] is the meta record; ARGV[1] names the change.
-- Commands of Redis 6.2 and earlier only. The rules in words: OnlineStore in ports.py; in Python: rows.py.

local FORMAT = '1'
local STAMP = 27
local DAY = 86400
local YEAR_9999 = 253402214400
local KEY_FIELD = '@key'

local call, sub, byte, floor = redis.call, string.sub, string.byte, math.floor

-- Before Redis 7 a script that asks for the time and then writes must be replicated by its effects.
if redis.replicate_commands then redis.replicate_commands() end

-- Lua compares text by the server's locale. All but plain ones sort 'Z' after 'a' or overlook '-'.
local plain = 'Z' < 'a' and '-' < '0'

local function less(a, b)
  if plain then return a < b end
  local shorter = math.min(#a, #b)
  for i = 1, shorter do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Days from 1970-01-01 to a date and back, in the proleptic Gregorian calendar.
local function days_from_date(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = floor(year / 400)
  local of_era = year - era * 400
  local of_year = floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + floor(of_era / 4) - floor(of_era / 100) + of_year - 719468
end

local function date_from_days(days)
  local shifted = days + 719468
  local era = floor(shifted / 146097)
  local day = shifted - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  local of_year = day - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  local of_month = of_year - floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return year + era * 400 + (month <= 2 and 1 or 0), month, of_month
end

local function now()
  local time = call('TIME')
  local seconds, micros = tonumber(time[1]), tonumber(time[2])
  local days = floor(seconds / DAY)
  local rest = seconds - days * DAY
  local year, month, day = date_from_days(days)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ',
    year, month, day, floor(rest / 3600), floor(rest / 60) % 60, rest % 60, micros)
end

-- Whole seconds from 1970 to a stamp, and microseconds.
local function epoch(stamp)
  local function number(first, last) return tonumber(sub(stamp, first, last)) end
  local days = days_from_date(number(1, 4), number(6, 7), number(9, 10))
  return days * DAY + number(12, 13) * 3600 + number(15, 16) * 60 + number(18, 19), number(21, 26)
end

local position = 1
local function take()
  position = position + 1
  return ARGV[position]
end

local function take_number() return tonumber(take()) end

local function take_list(count)
  local list = {}
  for i = 1, count do list[i] = take() end
  return list
end

local function array(values) return '[' .. table.concat(values, ',') .. ']' end

local function wins(key, view, event, created, values, replace_before)
  local stamp = call('HGET', key, view.stamp)
  if not stamp or #stamp < 2 * STAMP + 3 then return true end
  if replace_before ~= '' and less(sub(stamp, -STAMP), replace_before) then return true end
  local stored_event = sub(stamp, 1, STAMP)
  if stored_event ~= event then return less(stored_event, event) end
  local stored_created = sub(stamp, STAMP + 2, -STAMP - 2)
  if stored_created ~= created then return less(stored_created, created) end
  local stored = #view.fields > 0 and call('HMGET', key, unpack(view.fields)) or {}
  -- A stored row that lacks a feature is of an older schema, and loses a tie.
  for i = 1, #view.fields do
    if not stored[i] then return true end
  end
  return less(array(stored), array(values))
end

local function put(key, entity_key, view, event, created, values, written)
  local cells = { KEY_FIELD, entity_key, view.stamp, event .. '|' .. created .. '|' .. written }
  for i, field in ipairs(view.fields) do
    cells[#cells + 1] = field
    cells[#cells + 1] = values[i]
  end
  call('HSET', key, unpack(cells))
end

-- ttls: nil for a key that never expires, else the stamp fields with the seconds and microseconds of each ttl.
local function expire(key, ttls)
  if not ttls then return call('PERSIST', key) end
  if #ttls.fields == 0 then return end
  local latest
  for i, stamp in ipairs(call('HMGET', key, unpack(ttls.fields))) do
    if stamp then
      local seconds, micros = epoch(sub(stamp, 1, STAMP))
      local at = seconds + ttls.seconds[i] + math.ceil((micros + ttls.micros[i]) / 1000000)
      if not latest or at > latest then latest = at end
    end
  end
  if not latest then return end
  if latest >= YEAR_9999 then return call('PERSIST', key) end
  call('EXPIREAT', key, string.format('%.0f', math.max(latest + DAY, 1)))
end

local function take_ttls()
  local count = take_number()
  if count < 0 then return nil end
  local ttls = { fields = {}, seconds = {}, micros = {} }
  for i = 1, count do
    ttls.fields[i], ttls.seconds[i], ttls.micros[i] = take(), take_number(), take_number()
  end
  return ttls
end

local function take_views()
  local views = {}
  for i = 1, take_number() do
    views[i] = { stamp = take(), fields = take_list(take_number()) }
  end
  return views
end

-- write REPLACE_BEFORE TTLS VIEWS, then for each of KEYS[2..]: ENTITY_KEY ROWS (VIEW EVENT CREATED VALUE...)...
local function write()
  local replace_before = take()
  local ttls, views = take_ttls(), take_views()
  local written, stamp = 0, now()
  -- A clock that was set back must not date a run's rows before its own beginning: its sweep would remove them.
  if less(stamp, replace_before) then stamp = replace_before end
  for i = 2, #KEYS do
    local key, entity_key = KEYS[i], take()
    for _ = 1, take_number() do
      local view = views[take_number()]
      local event, created = take(), take()
      local values = take_list(#view.fields)
      if wins(key, view, event, created, values, replace_before) then
        put(key, entity_key, view, event, created, values, stamp)
        written = written + 1
      end
    end
    expire(key, ttls)
  end
  return written
end

-- write_columns REPLACE_BEFORE TTLS VIEWS(1) PREFIX, then for each of KEYS[2..]: EVENT|CREATED VALUE...
-- The entity key is what follows so many bytes of prefix in the key.
local function write_columns()
  local replace_before = take()
  local ttls, view = take_ttls(), take_views()[1]
  local prefix = take_number()
  local written, count, field, args = 0, #view.fields, view.stamp, ARGV
  local stamp = now()
  if less(stamp, replace_before) then stamp = replace_before end
  local ending = '|' .. stamp
  local cells = { KEY_FIELD, '', field, '' }
  for i, name in ipairs(view.fields) do cells[2 * i + 3] = name end
  local size = #view.fields + 2
  local width = 2 * size
  for i = 2, #KEYS do
    local key, moments = KEYS[i], args[position + 1]
    local better = not call('HGET', key, field)
    if not better then
      local values = {}
      for j = 1, count do values[j] = args[position + 1 + j] end
      better = wins(key, view, sub(moments, 1, STAMP), sub(moments, STAMP + 2), values, replace_before)
    end
    local new
    if better then
      cells[2], cells[4] = sub(key, prefix + 1), moments .. ending
      for j = 1, count do cells[2 * j + 4] = args[position + 1 + j] end
      new = call('HSET', key, unpack(cells, 1, width)) == size
      written = written + 1
    end
    position = position + 1 + count
    -- a hash that was just made has no expiry to take away
    if ttls or not new then expire(key, ttls) end
  end
  return written
end

local function holds_a_row(key)
  for _, field in ipairs(call('HKEYS', key)) do
    if byte(field) == 64 and field ~= KEY_FIELD then return true end
  end
  return false
end

-- sweep BEFORE VIEWS(1): removes the view's rows that were written before, from KEYS[2..].
local function sweep()
  local before, view = take(), take_views()[1]
  local removed = 0
  for i = 2, #KEYS do
    local stamp = call('HGET', KEYS[i], view.stamp)
    if stamp and less(sub(stamp, -STAMP), before) then
      call('HDEL', KEYS[i], view.stamp, unpack(view.fields))
      if not holds_a_row(KEYS[i]) then call('DEL', KEYS[i]) end
      removed = removed + 1
    end
  end
  return removed
end

-- begin LIFETIME: makes the meta record if there is none; answers the time, the record, and 1 if the database was empty.
local function begin()
  local lifetime = take()
  local empty = redis.pcall('DBSIZE') == 0 and 1 or 0 -- 0 too for a user who may not ask
  call('HSETNX', KEYS[1], '@format', FORMAT)
  call('HSETNX', KEYS[1], '@lifetime', lifetime)
  return { now(), call('HGETALL', KEYS[1]), empty }
end

-- complete VIEW SCHEMA_HASH WATERMARK LIFETIME BASE, BASE empty for a full run.
local function complete()
  local view, schema_hash, watermark, lifetime, base = take(), take(), take(), take(), take()
  if call('HGET', KEYS[1], '@lifetime') ~= lifetime then return 0 end
  if base ~= '' then
    local stored = call('HGET', KEYS[1], view)
    if not stored or sub(stored, 1, -STAMP - 2) ~= schema_hash then return 1 end
    local mark = sub(stored, -STAMP)
    if less(mark, base) or not less(mark, watermark) then return 1 end
  end
  call('HSET', KEYS[1], view, schema_hash .. '|' .. watermark)
  return 1
end

local found = call('HGET', KEYS[1], '@format')
if found and found ~= FORMAT then return redis.error_reply('LLMFORMAT ' .. found) end

local changes = { write = write, write_columns = write_columns, sweep = sweep, begin = begin, complete = complete }
return changes[ARGV[1]]()
