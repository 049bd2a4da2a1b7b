-- Says on which other nodes a room has members, while one gets its first there, or has lost its last.
-- KEYS 1 the hash of nodes that have members: node -> since when, milliseconds since 1970
-- ARGV 1 node  2 '1' it has members, '0' it has none  3 and on: nodes that live
-- Returns {other nodes with members, those of them that had some before this one, milliseconds since 1970}: also when it
-- is asked again, since the answer was lost. Who lives no more does not count, but who is new may not be known to live yet.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local live, others, earlier = {}, 0, 0
for i = 3, #ARGV do live[ARGV[i]] = true end
local since = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or now)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local node, its = all[i], tonumber(all[i + 1])
  if node == ARGV[1] then
    -- itself
  elseif live[node] or now - its < 30000 then
    others = others + 1
    if its < since or its == since and node < ARGV[1] then earlier = earlier + 1 end
  else
    redis.call('HDEL', KEYS[1], node)
  end
end
if ARGV[2] == '1' then
  redis.call('HSETNX', KEYS[1], ARGV[1], string.format('%.0f', now))
  redis.call('EXPIRE', KEYS[1], 3600)
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return {others, earlier, now}
