-- Says which nodes live, by the clock of Redis. A node that is named renews its lease, or takes a new one.
-- KEYS 1 the hash of leases: node -> until, generation, version
-- ARGV 1 node, or '' to ask only  2 milliseconds that the lease lasts, 0 to give it up  3 version
-- Returns {generation of the node's lease, {{node, generation, version}, ...}}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, last, mine = ARGV[1], tonumber(ARGV[2]), 0
local live = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local till, generation, version = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
  if till and tonumber(till) > now then
    if all[i] == node then mine = tonumber(generation) else live[#live + 1] = {all[i], tonumber(generation), version} end
  elseif till and node ~= '' and tonumber(till) < now - 3600000 then -- who only asks may have no right to write
    redis.call('HDEL', KEYS[1], all[i])
  end
end
if node == '' then return {0, live} end
if last == 0 then
  redis.call('HDEL', KEYS[1], node)
  return {mine, live}
end
if mine == 0 then mine = redis.call('HINCRBY', KEYS[1], '$generation', 1) end
redis.call('HSET', KEYS[1], node, string.format('%.0f %.0f ', now + last, mine) .. ARGV[3])
live[#live + 1] = {node, mine, ARGV[3]}
return {mine, live}
