-- Tell the time and the last change, and whether the change that a gate applied last is still the one it knows.
local state, changes = unpack(KEYS)
local position, token, epoch, fence, lost = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local whole = function(number) return string.format('%.0f', number) end

local known, highest, last, from = unpack(redis.call('HMGET', state, 'epoch', 'clock', 'changes', 'fence'))
highest, last = tonumber(highest or '0'), last or '0'
if not known or lost == '1' then
  -- What UDP packets were seen is lost too: those made before now and in the next window may have been among them.
  from = whole(math.max(tonumber(from or '0'), now + tonumber(fence)))
  redis.call('HSET', state, 'fence', from)
end
if not known then
  known = epoch
  redis.call('HSET', state, 'epoch', epoch)
end
-- Where it cannot be written, as without memory left, closing goes on all the same; but the gates say so.
local written = redis.pcall('HSET', state, 'clock', whole(math.max(now, highest)))
local trouble = type(written) == 'table' and written.err or ''
highest = math.max(now, highest)

local token_of = function(found)
  local fields = found[1] and found[1][2] or {}
  for place = 1, #fields, 2 do
    if fields[place] == 't' then return fields[place + 1] end
  end
  return ''
end
local there = redis.call('XRANGE', changes, position .. '-0', position .. '-0')
local same = 'trimmed'
if tonumber(position) > tonumber(last) then
  same = 'lost'
elseif there[1] then
  same = token_of(there) == token and 'same' or 'lost'
elseif position == last then
  same = 'same'
end
local newest = redis.call('XREVRANGE', changes, '+', '-', 'COUNT', 1)
return {now, last, highest, same, known, from or '0', token_of(newest), trouble}
