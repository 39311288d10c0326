-- Open or renew one grant; the bounds of the whole whitelist are kept here, where all gates' knocks meet.
local state, changes, all, crowd, grant = unpack(KEYS)
local prefix, owner, id, ttl, named, via, mark, most, addresses, deadline, token, longest = unpack(ARGV)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Its gate gave up waiting, and said that nothing was granted.
if now > tonumber(deadline) then return {'late'} end
local highest = tonumber(redis.call('HGET', state, 'clock') or '0')
if now < highest - 60000 then return {'behind', highest - now} end

local whole = function(number) return string.format('%.0f', number) end
local parsed = function(record)
  local name, created, last, ends, how, secret, number = record:match('^(%S+) (%d+) (%d+) (%d+) (%a+) (%S+) (%d+)$')
  return name and {id = name, created = created, ends = tonumber(ends), via = how, number = tonumber(number)}
end
local next_number = function() return whole(redis.call('HINCRBY', state, 'changes', 1)) end
local tell = function(number, subject, record, why)
  redis.call('XADD', changes, 'MAXLEN', '~', longest, number .. '-0', 'o', subject, 'v', record, 'w', why, 't', token)
end

local ends = now + tonumber(ttl)
local created = whole(now)
local known = redis.call('GET', grant)
-- What no gate wrote is as good as nothing.
local held = known and parsed(known)
if held then
  id, created = held.id, held.created
  if named ~= '1' then ends = math.max(ends, held.ends) end
  if held.via == 'remote' then via = 'remote' end
end
local own = via == 'http' or via == 'udp'

-- The first thing that is written: where there is no memory left this fails, and then nothing was done by halves.
redis.call('HSET', state, 'clock', whole(math.max(now, highest)))

-- Those that have to make room: the longest unknocked of the key's own addresses (max_addresses).
redis.call('ZREMRANGEBYSCORE', crowd, '-inf', whole(now))
local leaving = {}
if own and tonumber(addresses) >= 0 then
  local others = {}
  for _, other in ipairs(redis.call('ZRANGE', crowd, 0, -1)) do
    local record = other ~= owner and redis.call('GET', prefix .. 'grant:' .. other)
    local known_there = record and parsed(record)
    if known_there then table.insert(others, {other, known_there.number}) end
  end
  table.sort(others, function(one, two) return one[2] < two[2] end)
  for place = 1, #others - (tonumber(addresses) - 1) do table.insert(leaving, others[place][1]) end
end

if not held then
  redis.call('ZREMRANGEBYSCORE', all, '-inf', whole(now))
  if redis.call('ZCARD', all) + 1 - #leaving > tonumber(most) then return {'full'} end
end

local number = next_number()
local record = table.concat({id, created, whole(now), whole(ends), via, mark, number}, ' ')
tell(number, owner, record, '')
redis.call('SET', grant, record, 'PXAT', whole(ends))
redis.call('ZADD', all, whole(ends), owner)
if own then redis.call('ZADD', crowd, whole(ends), owner) else redis.call('ZREM', crowd, owner) end
for _, other in ipairs(leaving) do
  redis.call('DEL', prefix .. 'grant:' .. other)
  redis.call('ZREM', all, other)
  redis.call('ZREM', crowd, other)
  number = next_number()
  tell(number, other, '', 'room')
end
return {'ok', number}
