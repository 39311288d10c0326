-- Take in a grant as it is somewhere else, unless what is here lasts as long; none becomes longer on the way.
local state, changes, all, crowd, grant = unpack(KEYS)
local owner, id, since_created, since_last, left, via, mark, most, token, longest = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local whole = function(number) return string.format('%.0f', number) end

local ends = now + tonumber(left)
if ends <= now then return {'over'} end
local known = redis.call('GET', grant)
-- Two copies of one grant differ by what the clocks were read at.
if known and tonumber(known:match('^%S+ %d+ %d+ (%d+)') or '0') + 1000 >= ends then return {'kept'} end
if not known then
  redis.call('ZREMRANGEBYSCORE', all, '-inf', whole(now))
  if redis.call('ZCARD', all) + 1 > tonumber(most) then return {'full'} end
end
local number = whole(redis.call('HINCRBY', state, 'changes', 1))
local created, last = whole(now - tonumber(since_created)), whole(now - tonumber(since_last))
local record = table.concat({id, created, last, whole(ends), via, mark, number}, ' ')
redis.call('XADD', changes, 'MAXLEN', '~', longest, number .. '-0', 'o', owner, 'v', record, 'w', '', 't', token)
redis.call('SET', grant, record, 'PXAT', whole(ends))
redis.call('ZADD', all, whole(ends), owner)
if via == 'http' or via == 'udp' then redis.call('ZADD', crowd, whole(ends), owner) end
return {'ok', number}
