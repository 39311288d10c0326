-- Take in a grant as it is somewhere else, unless what is here lasts as long or is another key's or way's.
local state, changes, all, crowd, grant = unpack(KEYS)
local owner, id, since_created, since_last, ends, via, mark, most, token, longest = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local highest = tonumber(redis.call('HGET', state, 'clock') or '0')
if now < highest - 60000 then return {'behind', highest - now} end
now = math.max(now, highest)
local whole = function(number) return string.format('%.0f', number) end

if tonumber(ends) <= now then return {'over'} end
local known = redis.call('GET', grant)
local held_ends, held_via, held_mark = string.match(known or '', '^%S+ %d+ %d+ (%d+) (%a+) (%S+) %d+$')
if held_ends then
  -- Two copies of one grant differ by what the clocks were read at.
  if held_via ~= via or held_mark ~= mark or tonumber(held_ends) + 1000 >= tonumber(ends) then return {'kept'} end
end
redis.call('HSET', state, 'clock', whole(now))
if not known then
  redis.call('ZREMRANGEBYSCORE', all, '-inf', whole(now))
  if redis.call('ZCARD', all) + 1 > tonumber(most) then return {'full'} end
end
local number = whole(redis.call('HINCRBY', state, 'changes', 1))
local created, last = whole(now - tonumber(since_created)), whole(now - tonumber(since_last))
local record = table.concat({id, created, last, ends, via, mark, number}, ' ')
redis.call('XADD', changes, 'MAXLEN', '~', longest, number .. '-0', 'o', owner, 'v', record, 'w', '', 't', token)
redis.call('SET', grant, record, 'PXAT', ends)
redis.call('ZADD', all, ends, owner)
if via == 'http' or via == 'udp' then redis.call('ZADD', crowd, ends, owner) end
return {'ok', number}
