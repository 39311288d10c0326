-- Close grants that were last knocked for no later than `at`: a close that waited for the engine ends no later knock.
-- Those that were, are told with their records.
local state, changes, all = unpack(KEYS)
local prefix, token, longest = unpack(ARGV, 1, 3)
local answer = {'ok', '0'}
for place = 4, #ARGV, 4 do
  local owner, crowd, at, why = unpack(ARGV, place, place + 3)
  local record = redis.call('GET', prefix .. 'grant:' .. owner)
  if record and tonumber(record:match('^%S+ %d+ (%d+)') or '0') > tonumber(at) then
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
