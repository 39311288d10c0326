-- Open or renew one grant; the bounds of the whole whitelist are kept here, where all gates' knocks meet.
local state, changes, all, crowd, grant = unpack(KEYS)
local prefix, owner, id, ttl, named, via, mark, other, admin, most, addresses, deadline, token, longest = unpack(ARGV)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Its gate gave up waiting, and said that nothing was granted.
if now > tonumber(deadline) then return {'late'} end
local highest = tonumber(redis.call('HGET', state, 'clock') or '0')
if now < highest - 60000 then return {'behind', highest - now} end
-- A clock that was set back a little stands still for us, so that nothing lives anew.
now = math.max(now, highest)

local whole = function(number) return string.format('%.0f', number) end
local parsed = function(record)
  local name, created, last, ends, how, secret, number = record:match('^(%S+) (%d+) (%d+) (%d+) (%a+) (%S+) (%d+)$')
  return name and {
    id = name, created = created, ends = tonumber(ends), via = how, mark = secret, number = tonumber(number)
  }
end
local next_number = function() return whole(redis.call('HINCRBY', state, 'changes', 1)) end
local tell = function(number, subject, record, why)
  redis.call('XADD', changes, 'MAXLEN', '~', longest, number .. '-0', 'o', subject, 'v', record, 'w', why, 't', token)
end

local ends = now + tonumber(ttl)
local created = whole(now)
local known = redis.call('GET', grant)
local held = known and parsed(known)
-- What the key as it is now would not leave, and what no gate wrote, is as good as nothing.
if held and held.mark ~= mark and held.mark ~= other then held = nil end
if held and held.via == 'remote' and admin ~= '1' then held = nil end
if held then
  id, created = held.id, held.created
  if named ~= '1' then ends = math.max(ends, held.ends) end
  if held.via == 'remote' then via = 'remote' end
end
local own = via == 'http' or via == 'udp'

-- The first thing that is written: where there is no memory left this fails, and then nothing was done by halves.
redis.call('HSET', state, 'clock', whole(now))

-- Those that have to make room: the longest unknocked of the key's own addresses (max_addresses).
redis.call('ZREMRANGEBYSCORE', crowd, '-inf', whole(now))
local leaving = {}
if own and tonumber(addresses) >= 0 then
  local others = {}
  for _, member in ipairs(redis.call('ZRANGE', crowd, 0, -1)) do
    local record = member ~= owner and redis.call('GET', prefix .. 'grant:' .. member)
    local read = record and parsed(record)
    if read then table.insert(others, {member, read.number}) end
  end
  table.sort(others, function(one, two) return one[2] < two[2] end)
  for place = 1, #others - (tonumber(addresses) - 1) do table.insert(leaving, others[place][1]) end
end

if not known then
  redis.call('ZREMRANGEBYSCORE', all, '-inf', whole(now))
  if redis.call('ZCARD', all) + 1 - #leaving > tonumber(most) then return {'full'} end
end

local number = next_number()
local record = table.concat({id, created, whole(now), whole(ends), via, mark, number}, ' ')
tell(number, owner, record, '')
redis.call('SET', grant, record, 'PXAT', whole(ends))
redis.call('ZADD', all, whole(ends), owner)
if own then redis.call('ZADD', crowd, whole(ends), owner) else redis.call('ZREM', crowd, owner) end
for _, member in ipairs(leaving) do
  redis.call('DEL', prefix .. 'grant:' .. member)
  redis.call('ZREM', all, member)
  redis.call('ZREM', crowd, member)
  number = next_number()
  tell(number, member, '', 'room')
end
return {'ok', number}
