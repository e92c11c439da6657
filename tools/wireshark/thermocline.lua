-- Wireshark dissector of Thermocline's protocol, version 1, written from net/PROTOCOL.md.
--
-- Owns showing frames: header and checksums, operations, outcomes, every field of the byte tables. Never guesses: what
-- does not fit the document is marked with the document's word for it (field thermocline.wrong), and the rest shown
-- as bytes. Invariant: no bytes, however wrong, raise a Lua error.
--
-- What is said to cold nodes is in thermocline_cold.lua beside this file, which loads it.
--
-- Install: copy both files into the folder that Help > About > Folders calls "Personal Lua Plugins", or
--     tshark -X lua_script:tools/wireshark/thermocline.lua -r capture.pcap -Y thermocline
-- Port 7420 is taken for Thermocline; on other ports a connection is recognised by the magic at a segment's start.

-- Wireshark names the folder of a script that it finds by itself; one that it is told to load knows its own path.
local folder = __DIR__
folder = folder and folder .. "/" or debug.getinfo(1, "S").source:match("^@?(.*[/\\])") or ""
local cold = dofile(folder .. "thermocline_cold.lua")

local protocol = Proto("thermocline", "Thermocline")

local HEADER_BYTES = 32
local BODY_BYTES_MAX = 4194304
local VALUE_BYTES_MAX = 1048576
local REPLY = 0x80

protocol.prefs.port = Pref.uint("TCP port", 7420, "Port on which every connection is Thermocline's")
protocol.prefs.checksums = Pref.bool("Check body checksums", true, "Computed in Lua: slow on captures of many MiB")

-- Names of codes, as in section 9 of the document -------------------------------------------------------------------

local operations = {
  [1] = "Hello", [2] = "Ping", [3] = "Get", [4] = "MultiGet", [5] = "Put", [6] = "Delete", [7] = "CompareAndSet",
  [8] = "Batch", [9] = "Scan", [10] = "Head", [11] = "Streams", [12] = "Map", [13] = "Status",
  [14] = "Verify", [15] = "SetMap", [16] = "Hot", [32] = "ColdReserve", [33] = "ColdWrite", [34] = "ColdSeal",
  [35] = "ColdFree", [36] = "ColdGet", [37] = "ColdScan", [38] = "ColdList", [39] = "ColdIndex",
  [40] = "ColdRead", [41] = "ColdFiles", [42] = "ColdCopy",
}
local outcomes = {
  [1] = "Ok", [2] = "NotFound", [3] = "NotModified", [4] = "Redirect", [5] = "Moved", [6] = "VersionMismatch", [7] = "Busy", [8] = "NotCurrent",
  [9] = "WrongGroup", [10] = "TooLarge", [11] = "BadRequest", [12] = "Unauthorized", [13] = "Corrupt",
  [14] = "UnknownOutcome", [15] = "Timeout",
}
local limits = {
  [1] = "InFlight", [2] = "Connections", [3] = "Queue", [4] = "Memory", [5] = "Journal", [6] = "Space",
  [7] = "RequestIds", [8] = "ReplyBuffers", [9] = "Tables", [10] = "Starting", [11] = "Draining", [12] = "Rate",
  [13] = "Device", [32] = "Frame", [33] = "Value", [34] = "Operations", [35] = "Entry",
}
local reasons = {
  [1] = "UnknownOperation", [2] = "Short", [3] = "Trailing", [4] = "Stream", [5] = "Flags", [6] = "Reserved",
  [7] = "Time", [8] = "Range", [9] = "Count", [10] = "Kind", [11] = "ValueBytes", [12] = "Version",
  [13] = "BodyChecksum", [14] = "ProtocolVersion", [15] = "HelloFirst", [16] = "HelloAgain", [17] = "NotARequest",
  [18] = "RequestId", [19] = "Tablet", [20] = "Cluster", [21] = "HelloLimits", [22] = "Method", [23] = "HeaderFlags",
  [24] = "Map", [25] = "Disk", [26] = "Place",
}
local methods = { [0] = "none", [1] = "token" }
local kinds = { [1] = "put", [2] = "delete" }
local writes = { [5] = true, [6] = true, [7] = true, [8] = true }

-- Fields ------------------------------------------------------------------------------------------------------------

local f = {}
local function field(kind, name, title, ...)
  f[name] = ProtoField[kind]("thermocline." .. name, title, ...)
end

field("string", "magic", "Magic")
field("uint8", "protocol", "Protocol version")
field("uint8", "code", "Code", base.HEX)
field("uint8", "operation", "Operation", base.DEC, operations, 0x7f)
field("bool", "reply", "Reply", 8, nil, REPLY)
field("uint16", "flags", "Flags", base.HEX)
field("uint64", "request", "Request")
field("uint32", "body_bytes", "Body bytes")
field("uint32", "map_epoch", "Map epoch")
field("uint32", "body_checksum", "Body checksum", base.HEX)
field("uint32", "header_checksum", "Header checksum", base.HEX)
field("framenum", "reply_in", "Reply in", base.NONE, frametype.RESPONSE)
field("framenum", "reply_to", "Reply to", base.NONE, frametype.REQUEST)

field("uint8", "protocol_min", "Oldest protocol version")
field("uint8", "protocol_max", "Newest protocol version")
field("uint8", "method", "Authentication", base.DEC, methods)
field("uint16", "auth_bytes", "Proof bytes")
field("bytes", "auth", "Proof")
field("uint64", "features", "Features", base.HEX)
field("uint32", "frame_bytes", "Longest body")
field("uint32", "in_flight", "Requests in flight")
field("uint64", "client", "Client", base.HEX)
field("bytes", "cluster", "Cluster")
field("uint32", "node", "Node")
field("uint32", "incarnation", "Incarnation")
field("uint32", "idle_ms", "Idle limit (ms)")

field("bytes", "echo", "Echo")
field("uint16", "space", "Space")
field("uint8", "stream_bytes", "Stream bytes")
field("bytes", "stream", "Stream")
field("uint8", "op_flags", "Flags", base.HEX)
field("uint8", "kind", "Kind", base.DEC, kinds)
field("uint64", "time", "Time (µs)")
field("uint64", "expiry", "Expiry (µs)")
field("uint64", "from", "From (µs)")
cold.fields(field)
field("uint64", "to", "To (µs)")
field("uint64", "if_newer", "If newer than version")
field("uint64", "expected", "Expected version")
field("uint32", "value_bytes", "Value bytes")
field("bytes", "value", "Value")
field("uint32", "count", "Count")
field("uint32", "record_limit", "Records at most")
field("uint32", "byte_limit", "Bytes at most")
field("uint8", "tablet", "Tablet")
field("uint16", "after_space", "After space")
field("uint8", "after_stream_bytes", "After stream bytes")
field("bytes", "after_stream", "After stream")
field("uint32", "limit_streams", "Streams at most")
field("uint16", "group", "Group")
field("uint32", "known_epoch", "Known epoch")
field("uint64", "id_client", "Request id, client", base.HEX)
field("uint64", "id_log_time", "Request id, log time (µs)")
field("uint64", "id_sequence", "Request id, sequence")

field("uint8", "outcome", "Outcome", base.DEC, outcomes)
field("uint8", "outcome_code", "Code of the outcome")
field("uint8", "limit", "Limit", base.DEC, limits)
field("uint8", "why", "What is wrong", base.DEC, reasons)
field("bool", "repeated", "Had been applied before", 8, nil, 1)
field("bool", "current_known", "Current version is known", 8, nil, 1)
field("bool", "too_old", "Request id is too old", 8, nil, 1)
field("uint32", "detail", "Detail")
field("uint32", "hint_ms", "Try again after (ms)")
field("uint32", "epoch", "Epoch")
field("uint32", "at", "At byte of the request's body")
field("uint64", "log_time", "Log time (µs)")
field("uint64", "version", "Version")
field("uint64", "first_version", "First version")
field("uint64", "current", "Current version")
field("uint64", "log_index", "Log index")
field("uint64", "resume", "Resume at (µs)")
field("uint8", "more", "More")
field("uint16", "index", "Index")
field("string", "text", "Status")
field("uint16", "group_count", "Groups")
field("uint16", "node_count", "Nodes")
field("uint64", "recent_us", "Recent (µs)")
field("uint16", "cache_share", "Cache share (of 10,000)")
field("uint32", "revision", "Revision")
field("uint32", "node_id", "Node")
field("ipv6", "address", "Address")
field("uint16", "port", "Port")
field("uint16", "zone", "Zone")
field("uint16", "shard_count", "Shards")
field("uint8", "roles", "Roles", base.HEX)
field("uint8", "replicas", "Replicas")
field("uint8", "member_count", "Members")
field("uint32", "member", "Member")
field("bytes", "reserved", "Reserved")
field("bytes", "rest", "Not understood")
field("string", "wrong", "Wrong")

local in_order = {}
for _, one in pairs(f) do in_order[#in_order + 1] = one end
protocol.fields = in_order

local wrong_expert = ProtoExpert.new(
  "thermocline.malformed", "Not as the document says", expert.group.MALFORMED, expert.severity.ERROR
)
protocol.experts = { wrong_expert }

local tcp_stream = Field.new("tcp.stream")

-- Marks `item` with the document's word for what is wrong.
local function wrong(tree, range, word)
  local item = range and tree:add(f.wrong, range, word) or tree:add(f.wrong, word)
  item:add_proto_expert_info(wrong_expert, word)
end

-- CRC-32 (IEEE) -----------------------------------------------------------------------------------------------------

-- Lua 5.3 has operators, older ones a library; a chunk keeps the operators from older parsers.
local operators = load([[
  return function(a, b) return a ~ b end, function(a, b) return a & b end, function(a, n) return a >> n end
]])
local xor, band, rshift
if operators then
  xor, band, rshift = operators()
else
  local library = rawget(_G, "bit32") or bit
  xor, band, rshift = library.bxor, library.band, library.rshift
end

local crc_table = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do
    crc = band(crc, 1) == 1 and xor(rshift(crc, 1), 0xedb88320) or rshift(crc, 1)
  end
  crc_table[byte] = crc
end

-- CRC-32 of the bytes of a range.
local function crc32(range)
  local crc = 0xffffffff
  local bytes = range:bytes()
  for index = 0, bytes:len() - 1 do
    crc = xor(rshift(crc, 8), crc_table[band(xor(crc, bytes:get_index(index)), 0xff)])
  end
  -- LuaBitOp counts in signed numbers.
  return xor(crc, 0xffffffff) % 4294967296
end

-- A cursor over a body ----------------------------------------------------------------------------------------------

-- Raised (as a value, caught in `dissect_body`) where the body ends too early. Other errors are ours and pass.
local SHORT = {}

local Cursor = {}
Cursor.__index = Cursor

local function cursor(tvb) return setmetatable({ tvb = tvb, at = 0 }, Cursor) end

function Cursor:left() return self.tvb:len() - self.at end

-- The next `count` bytes as a range; nil for none.
function Cursor:take(count)
  if count > self:left() then error(SHORT, 0) end
  local range = count > 0 and self.tvb:range(self.at, count) or nil
  self.at = self.at + count
  return range
end

-- Adds `count` bytes as the little-endian field `name`; gives the number, for 8 bytes a UInt64.
function Cursor:number(tree, name, count)
  local range = self:take(count)
  local item = tree:add_le(f[name], range)
  if count == 8 then return range:le_uint64(), item end
  return range:le_uint(), item
end

-- Adds `count` bytes as they are, in network order.
function Cursor:bytes(tree, name, count)
  local range = self:take(count)
  if range then tree:add(f[name], range) end
  return range
end

function Cursor:reserved(tree, count)
  local range = self:take(count)
  tree:add(f.reserved, range)
  for index = 0, count - 1 do
    if range:range(index, 1):uint() ~= 0 then
      wrong(tree, range, "Reserved")
      return
    end
  end
end

-- Microseconds as text, for times that a calendar has.
local function moment(micros)
  local seconds = (micros / 1000000):tonumber()
  if seconds == 0 or seconds > 253402300799 then return "" end
  return os.date("!%Y-%m-%dT%H:%M:%S", seconds) .. string.format(".%06dZ", (micros % 1000000):tonumber())
end

function Cursor:time(tree, name)
  local micros, item = self:number(tree, name, 8)
  local text = moment(micros)
  if text ~= "" then item:append_text(" (" .. text .. ")") end
  return micros
end

-- A stream of `count` bytes, where the document allows that many.
function Cursor:stream(tree, name, count)
  if count < 1 or count > 128 then wrong(tree, nil, "Stream") end
  local range = self:bytes(tree, name, count)
  return range and range:string() or ""
end

function Cursor:value(tree, count)
  if count > VALUE_BYTES_MAX then wrong(tree, nil, "Value") end
  self:bytes(tree, "value", count)
  return count
end

function Cursor:request_id(tree)
  local branch = tree:add(protocol, self.tvb:range(self.at, math.min(24, self:left())), "Request id")
  self:number(branch, "id_client", 8)
  self:time(branch, "id_log_time")
  self:number(branch, "id_sequence", 8)
end

-- A branch for one of several; closed by `finish` so that it spans its bytes.
function Cursor:branch(tree, title)
  local at = self.at
  local branch = tree:add(protocol, self.tvb:range(at), title)
  return branch, function() branch:set_len(self.at - at) end
end

-- Requests ----------------------------------------------------------------------------------------------------------

-- Text for the info column, with a stream and a time.
local function key(stream, time) return string.format(" %s @ %s", stream, tostring(time)) end

local requests = {}
requests[1] = function(c, tree)
  c:number(tree, "protocol_min", 1)
  c:number(tree, "protocol_max", 1)
  c:number(tree, "method", 1)
  c:reserved(tree, 1)
  local auth_bytes = c:number(tree, "auth_bytes", 2)
  c:reserved(tree, 2)
  c:number(tree, "features", 8)
  c:number(tree, "frame_bytes", 4)
  c:number(tree, "in_flight", 4)
  c:number(tree, "client", 8)
  c:bytes(tree, "cluster", 16)
  c:bytes(tree, "auth", auth_bytes)
  return ""
end
requests[2] = function(c, tree)
  c:bytes(tree, "echo", c:left())
  return ""
end

-- Space, length of the stream and flags, with which most requests begin.
local function opening(c, tree, flags_known)
  c:number(tree, "space", 2)
  local stream_bytes = c:number(tree, "stream_bytes", 1)
  if flags_known then
    local flags = c:number(tree, "op_flags", 1)
    if flags > flags_known then wrong(tree, nil, "Flags") end
  end
  return stream_bytes
end
-- Get, and one of a MultiGet, which knows fewer flags.
local function get(c, tree, flags_known)
  local stream_bytes = opening(c, tree, flags_known)
  c:reserved(tree, 4)
  local time = c:time(tree, "time")
  c:number(tree, "if_newer", 8)
  return key(c:stream(tree, "stream", stream_bytes), time)
end
requests[3] = function(c, tree) return get(c, tree, 7) end
requests[4] = function(c, tree)
  local count = c:number(tree, "count", 2)
  c:reserved(tree, 6)
  for index = 0, count - 1 do
    local branch, finish = c:branch(tree, "Get " .. index)
    branch:append_text(get(c, branch, 3))
    finish()
  end
  return " of " .. count
end

-- Put and CompareAndSet.
local function put(c, tree, compares)
  local stream_bytes = opening(c, tree)
  c:reserved(tree, 1)
  local value_bytes = c:number(tree, "value_bytes", 4)
  local time = c:time(tree, "time")
  c:time(tree, "expiry")
  c:request_id(tree)
  if compares then c:number(tree, "expected", 8) end
  local text = key(c:stream(tree, "stream", stream_bytes), time)
  return text .. ", " .. c:value(tree, value_bytes) .. " bytes"
end
requests[5] = function(c, tree) return put(c, tree, false) end
requests[6] = function(c, tree)
  local stream_bytes = opening(c, tree)
  c:reserved(tree, 5)
  local time = c:time(tree, "time")
  c:request_id(tree)
  return key(c:stream(tree, "stream", stream_bytes), time)
end
requests[7] = function(c, tree) return put(c, tree, true) end
requests[8] = function(c, tree)
  local stream_bytes = opening(c, tree)
  c:reserved(tree, 1)
  local count = c:number(tree, "count", 2)
  c:reserved(tree, 2)
  c:request_id(tree)
  local stream = c:stream(tree, "stream", stream_bytes)
  for index = 0, count - 1 do
    local branch, finish = c:branch(tree, "Operation " .. index)
    local kind = c:number(branch, "kind", 1)
    if not kinds[kind] then wrong(branch, nil, "Kind") end
    c:reserved(branch, 3)
    local value_bytes = c:number(branch, "value_bytes", 4)
    branch:append_text(": " .. (kinds[kind] or "?") .. " @ " .. tostring(c:time(branch, "time")))
    c:time(branch, "expiry")
    c:value(branch, value_bytes)
    finish()
  end
  return string.format(" %s, %d operations", stream, count)
end
requests[9] = function(c, tree)
  local stream_bytes = opening(c, tree, 3)
  c:number(tree, "record_limit", 4)
  local from = c:time(tree, "from")
  local to = c:time(tree, "to")
  if from > to then wrong(tree, nil, "Range") end
  c:number(tree, "byte_limit", 4)
  c:reserved(tree, 4)
  return string.format(" %s @ %s..%s", c:stream(tree, "stream", stream_bytes), tostring(from), tostring(to))
end
requests[10] = function(c, tree)
  local stream_bytes = opening(c, tree, 1)
  local records = c:number(tree, "record_limit", 4)
  c:number(tree, "byte_limit", 4)
  c:reserved(tree, 4)
  return string.format(" %s, %d records", c:stream(tree, "stream", stream_bytes), records)
end
requests[11] = function(c, tree)
  local tablet = c:number(tree, "tablet", 1)
  if tablet > 63 then wrong(tree, nil, "Tablet") end
  if c:number(tree, "op_flags", 1) > 3 then wrong(tree, nil, "Flags") end
  c:number(tree, "after_space", 2)
  c:number(tree, "space", 2)
  local after_bytes = c:number(tree, "after_stream_bytes", 1)
  c:reserved(tree, 1)
  c:number(tree, "limit_streams", 4)
  c:number(tree, "group", 2)
  c:reserved(tree, 2)
  local after = after_bytes > 0 and " after " .. c:stream(tree, "after_stream", after_bytes) or ""
  return " of tablet " .. tablet .. after
end

local function cluster_map(c, tree)
  local epoch = c:number(tree, "epoch", 4)
  local group_count = c:number(tree, "group_count", 2)
  local node_count = c:number(tree, "node_count", 2)
  c:bytes(tree, "cluster", 16)
  c:number(tree, "recent_us", 8)
  c:number(tree, "cache_share", 2)
  c:reserved(tree, 2)
  c:number(tree, "revision", 4)
  for _ = 1, node_count do
    local branch, finish = c:branch(tree, "Node")
    branch:append_text(" " .. c:number(branch, "node_id", 4))
    c:bytes(branch, "address", 16)
    c:number(branch, "port", 2)
    c:number(branch, "zone", 2)
    c:number(branch, "shard_count", 2)
    c:number(branch, "roles", 1)
    c:reserved(branch, 5)
    finish()
  end
  for index = 0, group_count - 1 do
    local branch, finish = c:branch(tree, "Group " .. index)
    c:number(branch, "replicas", 1)
    local member_count = c:number(branch, "member_count", 1)
    c:reserved(branch, 2)
    for _ = 1, member_count do c:number(branch, "member", 4) end
    finish()
  end
  return string.format(" epoch %d, %d nodes", epoch, node_count)
end
requests[12] = function(c, tree)
  c:number(tree, "known_epoch", 4)
  c:reserved(tree, 4)
  return ""
end
requests[13] = function() return "" end
requests[14] = requests[13]
requests[16] = requests[13]
requests[15] = cluster_map

-- Replies -----------------------------------------------------------------------------------------------------------

local oks = {}
oks[1] = function(c, tree)
  c:number(tree, "protocol", 1)
  c:reserved(tree, 3)
  c:number(tree, "frame_bytes", 4)
  c:number(tree, "in_flight", 4)
  local node = c:number(tree, "node", 4)
  c:number(tree, "features", 8)
  c:bytes(tree, "cluster", 16)
  c:number(tree, "incarnation", 4)
  c:number(tree, "epoch", 4)
  c:number(tree, "idle_ms", 4)
  c:reserved(tree, 4)
  return " from node " .. node
end
oks[2] = requests[2]
oks[3] = function(c, tree, value_bytes)
  local version = c:number(tree, "version", 8)
  c:time(tree, "expiry")
  return string.format(" version %s, %d bytes", tostring(version), c:value(tree, value_bytes))
end

local reply_body
oks[4] = function(c, tree)
  local count = c:number(tree, "count", 4)
  c:reserved(tree, 4)
  for _ = 1, count do
    local branch, finish = c:branch(tree, "Item")
    branch:append_text(" " .. c:number(branch, "index", 2) .. ":")
    c:reserved(branch, 2)
    branch:append_text(reply_body(c, branch, 3))
    finish()
  end
  return " of " .. count
end

local function written(c, tree)
  return " version " .. tostring(c:number(tree, "version", 8))
end
oks[5], oks[6], oks[7] = written, written, written
oks[8] = function(c, tree)
  local version = c:number(tree, "first_version", 8)
  local count = c:number(tree, "count", 4)
  c:reserved(tree, 4)
  return string.format(" versions from %s, %d operations", tostring(version), count)
end
oks[9] = function(c, tree)
  c:number(tree, "log_index", 8)
  c:time(tree, "resume")
  local count = c:number(tree, "count", 4)
  local more = c:number(tree, "more", 1)
  c:reserved(tree, 3)
  for index = 0, count - 1 do
    local branch, finish = c:branch(tree, "Record " .. index)
    branch:append_text(" @ " .. tostring(c:time(branch, "time")))
    c:number(branch, "version", 8)
    c:time(branch, "expiry")
    c:value(branch, (c:number(branch, "value_bytes", 4)))
    finish()
  end
  return string.format(" %d records%s", count, more == 1 and ", more follow" or "")
end
oks[10] = oks[9]
oks[11] = function(c, tree)
  local count = c:number(tree, "count", 4)
  local more = c:number(tree, "more", 1)
  c:reserved(tree, 3)
  for index = 0, count - 1 do
    local branch, finish = c:branch(tree, "Stream " .. index)
    c:number(branch, "space", 2)
    local stream_bytes = c:number(branch, "stream_bytes", 1)
    c:reserved(branch, 1)
    branch:append_text(": " .. c:stream(branch, "stream", stream_bytes))
    finish()
  end
  return string.format(" %d streams%s", count, more == 1 and ", more follow" or "")
end
oks[12] = cluster_map
oks[13] = function(c, tree)
  c:bytes(tree, "text", c:left())
  return ""
end
oks[14] = oks[13]
oks[16] = oks[13]
oks[15] = oks[12]
cold.bodies(requests, oks)

-- The body of a reply, also one inside a MultiGet; gives text for the info column.
reply_body = function(c, tree, operation)
  local outcome = c:number(tree, "outcome", 1)
  local code_range = c:take(1)
  local code = code_range:uint()
  local name = outcomes[outcome]
  local function code_as(field_name) tree:add(f[field_name], code_range) end
  if not name then
    wrong(tree, nil, "outcome")
    code_as("outcome_code")
  elseif name == "Ok" and writes[operation] then code_as("repeated")
  elseif name == "VersionMismatch" then code_as("current_known")
  elseif name == "UnknownOutcome" then code_as("too_old")
  elseif name == "BadRequest" then
    code_as("why")
    if not reasons[code] then wrong(tree, code_range, "code") end
  elseif name == "Busy" or name == "TooLarge" then
    code_as("limit")
    if not limits[code] then wrong(tree, code_range, "code") end
  else
    code_as("outcome_code")
    if code ~= 0 then wrong(tree, code_range, "code") end
  end
  c:reserved(tree, 2)
  local details = { Busy = "hint_ms", WrongGroup = "epoch", BadRequest = "at" }
  if name == "Ok" and (operation == 3 or operation == 36) then details.Ok = "value_bytes" end
  local detail, item = c:number(tree, details[name] or "detail", 4)
  if not details[name] and detail ~= 0 then wrong(tree, nil, "detail") end
  c:time(tree, "log_time")
  local text = " " .. (name or ("outcome " .. outcome))
  if name == "Ok" then return text .. oks[operation](c, tree, detail) end
  if name == "VersionMismatch" then c:number(tree, "current", 8) end
  if name == "Redirect" then return text .. cold.redirect(c, tree) end
  if name == "Busy" then return string.format("%s (%s), again in %d ms", text, limits[code] or code, detail) end
  if name == "TooLarge" then return string.format("%s (%s)", text, limits[code] or code) end
  if name == "BadRequest" then return string.format("%s (%s at %d)", text, reasons[code] or code, detail) end
  return text
end

-- Frames ------------------------------------------------------------------------------------------------------------

-- By TCP stream and request: the packets of the request and of its reply.
local pairs_seen = {}

function protocol.init() pairs_seen = {} end

local function match(pinfo, tree, request, is_reply)
  local stream = tcp_stream()
  local name = (stream and stream.value or 0) .. ":" .. tostring(request)
  if not pinfo.visited then
    local list = pairs_seen[name] or {}
    pairs_seen[name] = list
    if is_reply then
      if #list > 0 and not list[#list].reply then list[#list].reply = pinfo.number end
    else
      list[#list + 1] = { request = pinfo.number }
    end
  end
  for _, pair in ipairs(pairs_seen[name] or {}) do
    if is_reply and pair.reply == pinfo.number then
      tree:add(f.reply_to, pair.request):set_generated()
    elseif not is_reply and pair.request == pinfo.number and pair.reply then
      tree:add(f.reply_in, pair.reply):set_generated()
    end
  end
end

local function dissect_body(body, tree, operation, is_reply)
  local c = cursor(body)
  local good, text = pcall(is_reply and reply_body or requests[operation], c, tree, operation)
  if not good then
    if text ~= SHORT then error(text, 0) end
    wrong(tree, nil, is_reply and "end" or "Short")
    return ""
  end
  if c:left() > 0 then
    tree:add(f.rest, body:range(c.at))
    wrong(tree, nil, is_reply and "end" or "Trailing")
  end
  return text
end

-- The header's fields; gives the document's word for the first thing that is wrong, nil for nothing.
local function dissect_header(header, tree)
  local c = cursor(header)
  c:bytes(tree, "magic", 4)
  local version = c:number(tree, "protocol", 1)
  local code_range = c:take(1)
  local code = code_range:uint()
  tree:add(f.code, code_range)
  tree:add(f.operation, code_range)
  tree:add(f.reply, code_range)
  local flags = c:number(tree, "flags", 2)
  c:number(tree, "request", 8)
  local body_bytes = c:number(tree, "body_bytes", 4)
  c:number(tree, "map_epoch", 4)
  c:number(tree, "body_checksum", 4)
  local checksum = c:number(tree, "header_checksum", 4)
  if crc32(header:range(0, 28)) ~= checksum then return "HeaderChecksum" end
  if version ~= 1 then return "BadVersion" end
  if body_bytes > BODY_BYTES_MAX then return "FrameTooLarge" end
  if not operations[code % REPLY] then return "UnknownOperation" end
  if flags ~= 0 then return "BadFlags" end
end

-- Length of the frame at `offset`. What is no frame is taken to the end of what is there.
local function frame_bytes(tvb, pinfo, offset)
  local all = tvb:len() - offset
  if tvb:range(offset, 4):string() ~= "TCL1" then return all end
  local body_bytes = tvb:range(offset + 16, 4):le_uint()
  if body_bytes > BODY_BYTES_MAX then return all end
  return HEADER_BYTES + body_bytes
end

local function dissect_frame(tvb, pinfo, root)
  pinfo.cols.protocol = "Thermocline"
  local tree = root:add(protocol, tvb:range())
  if tvb:len() < HEADER_BYTES or tvb:range(0, 4):string() ~= "TCL1" then
    wrong(tree, nil, "BadMagic")
    pinfo.cols.info:append(" [not a frame]")
    return tvb:len()
  end
  local header_tree = tree:add(protocol, tvb:range(0, HEADER_BYTES), "Header")
  local fault = dissect_header(tvb:range(0, HEADER_BYTES):tvb(), header_tree)
  if fault then
    wrong(header_tree, nil, fault)
    tree:append_text(", " .. fault)
    pinfo.cols.info:append(" [" .. fault .. "]")
    return tvb:len()
  end
  local code = tvb:range(5, 1):uint()
  local operation, is_reply = code % REPLY, code >= REPLY
  local request = tvb:range(8, 8):le_uint64()
  match(pinfo, tree, request, is_reply)
  local title = string.format("%s #%s", operations[operation], tostring(request)) .. (is_reply and " reply:" or "")
  local body_bytes = tvb:len() - HEADER_BYTES
  local stored = tvb:range(24, 4):le_uint()
  local found = 0
  if body_bytes > 0 and protocol.prefs.checksums then found = crc32(tvb:range(HEADER_BYTES)) end
  local checked = body_bytes == 0 or protocol.prefs.checksums
  if checked and found ~= stored then
    wrong(tree, nil, "BodyChecksum")
    title = title .. " [BodyChecksum]"
  elseif body_bytes > 0 then
    local body = tvb:range(HEADER_BYTES):tvb()
    local body_tree = tree:add(protocol, tvb:range(HEADER_BYTES), "Body")
    title = title .. dissect_body(body, body_tree, operation, is_reply)
  elseif is_reply or (operation ~= 2 and operation ~= 13 and operation ~= 14 and operation ~= 16) then
    wrong(tree, nil, is_reply and "end" or "Short")
  end
  tree:append_text(", " .. title)
  pinfo.cols.info:append(" " .. title)
  return tvb:len()
end

function protocol.dissector(tvb, pinfo, root)
  pinfo.cols.info:set("")
  dissect_tcp_pdus(tvb, root, HEADER_BYTES, frame_bytes, dissect_frame)
  return tvb:len()
end

local function recognise(tvb, pinfo, root)
  if tvb:len() < HEADER_BYTES or tvb:range(0, 4):string() ~= "TCL1" then return false end
  protocol.dissector(tvb, pinfo, root)
  pinfo.conversation = protocol
  return true
end

protocol:register_heuristic("tcp", recognise)

local tcp_ports = DissectorTable.get("tcp.port")
local port_taken = protocol.prefs.port
tcp_ports:add(port_taken, protocol)

function protocol.prefs_changed()
  if protocol.prefs.port == port_taken then return end
  tcp_ports:remove(port_taken, protocol)
  port_taken = protocol.prefs.port
  tcp_ports:add(port_taken, protocol)
end
