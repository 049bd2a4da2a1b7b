-- Writes a revocation down and tells all nodes. The clock of Redis says when: it is in the id.
-- KEYS 1 the log, a stream
-- ARGV 1 the revocation as JSON  2 PUBLISH or SPUBLISH  3 the control channel
-- Returns the entry's id.
local id = redis.call('XADD', KEYS[1], '*', 'r', ARGV[1])
redis.call(ARGV[2], ARGV[3], 'revoked')
return id
