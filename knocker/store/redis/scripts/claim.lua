-- Take a UDP packet for one gate, unless another has it, or it may have been among those that the engine forgot.
local state, seen = unpack(KEYS)
local epoch, position, made, kept = unpack(ARGV)
local known, last, fence = unpack(redis.call('HMGET', state, 'epoch', 'changes', 'fence'))
if known ~= epoch or tonumber(last or '0') < tonumber(position) then return 'lost' end
if tonumber(made) < tonumber(fence or '0') then return 'fenced' end
return redis.call('SET', seen, '1', 'NX', 'PX', kept) and 'first' or 'again'
