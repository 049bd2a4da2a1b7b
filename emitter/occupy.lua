-- Says whether a room has members on other nodes, while one gets its first there, or has lost its last.
-- KEYS 1 the hash of nodes that have members: node -> seconds since 1970
-- ARGV 1 node  2 '1' it has members, '0' it has none  3 and on: nodes that live
-- Returns {other nodes with members, milliseconds since 1970}. Who lives no more does not count, but who is new may not
-- be known to live yet.
local time = redis.call('TIME')
local live, others = {}, 0
for i = 3, #ARGV do live[ARGV[i]] = true end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] == ARGV[1] then
    -- itself
  elseif live[all[i]] or time[1] - all[i + 1] < 30 then
    others = others + 1
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], ARGV[1], time[1])
  redis.call('EXPIRE', KEYS[1], 3600)
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return {others, time[1] * 1000 + math.floor(time[2] / 1000)}
