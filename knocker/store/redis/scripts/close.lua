-- Close grants, but for those that were knocked for since the close was asked for, so many milliseconds ago: a close
-- that waited for the engine ends no later knock. What is left open is told with its record.
local state, changes, all = unpack(KEYS)
local prefix, token, longest = unpack(ARGV, 1, 3)
local time = redis.call('TIME')
local now = math.max(
  time[1] * 1000 + math.floor(time[2] / 1000),
  tonumber(redis.call('HGET', state, 'clock') or '0')
)
local answer = {'ok', '0'}
for place = 4, #ARGV, 5 do
  local owner, crowd, ago, only, why = unpack(ARGV, place, place + 4)
  local record = redis.call('GET', prefix .. 'grant:' .. owner)
  local id, last = string.match(record or '', '^(%S+) %d+ (%d+)')
  if record and (tonumber(last or '0') > now - tonumber(ago) or (only ~= '' and only ~= id)) then
    table.insert(answer, owner)
    table.insert(answer, record)
  elseif record then
    redis.call('DEL', prefix .. 'grant:' .. owner)
    redis.call('ZREM', all, owner)
    redis.call('ZREM', prefix .. 'crowd:' .. crowd, owner)
    local number = string.format('%.0f', redis.call('HINCRBY', state, 'changes', 1))
    redis.call('XADD', changes, 'MAXLEN', '~', longest, number .. '-0', 'o', owner, 'v', '', 'w', why, 't', token)
  end
end
answer[2] = redis.call('HGET', state, 'changes') or '0'
return answer
