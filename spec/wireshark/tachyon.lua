-- Shows Tachyon frames and messages in Wireshark and tshark, as the wire document (dataplane/wire/WIRE.md) lays them out.
--
-- What can be judged from the bytes alone is judged in the document's order of checks and shown as `tachyon.fault` and
-- `tachyon.message.fault`: layout, crc32c, payload area, messages, payload checksums. Tags, sessions, windows and rules need
-- what a capture does not hold, so nothing is said about them.
--
-- Install: copy this file into the personal Lua plugin folder (Help > About Wireshark > Folders, or `tshark -G folders`).

local tachyon = Proto("tachyon", "Tachyon Frame")

local LINE = 64 -- bytes; every part of a frame is a whole number of lines
local MESSAGES_MAX = 256
local INLINE_MAX = 48
local IDENTITY = 16 -- bytes of one message's provenance
local KIND_DATA, KIND_ACK, KIND_NACK, KIND_HEARTBEAT = 0, 1, 2, 3
local AUTHENTICATED, PROVENANCE = 0x01, 0x10

-- Everything the node can say no with. A test holds this table against the declaration in dataplane/wire/src/reason.rs.
-- reasons: begin
local REASONS = {
    [1] = "E_INGRESS_TOO_LARGE",
    [2] = "E_INGRESS_BAD_FRAME",
    [3] = "E_INGRESS_WRONG_SHARD",
    [4] = "E_AUTH_NO_SESSION",
    [5] = "E_AUTH_BAD_TAG",
    [6] = "E_INGRESS_BAD_CRC",
    [7] = "E_AUTH_TAG_REQUIRED",
    [8] = "E_AUTH_STALE",
    [9] = "E_AUTH_REPLAY",
    [10] = "E_ARENA_REF_INVALID",
    [20] = "E_INGRESS_BAD_PACKET",
    [21] = "E_INGRESS_MODE_FORBIDDEN",
    [22] = "E_GOV_TOPIC_SHARD",
    [23] = "E_GOV_SYSTEM_DENIED",
    [24] = "E_AUTH_SENDER",
    [25] = "E_GOV_RULESET_UNAVAILABLE",
    [26] = "E_GOV_RULESET_INVALID",
    [27] = "E_GOV_DENYLISTED",
    [28] = "E_GOV_TAG_REQUIRED",
    [29] = "E_GOV_SHED",
    [30] = "E_GOV_QUOTA_EXCEEDED",
    [31] = "E_GOV_THROTTLED",
    [40] = "E_TX_CONGESTION",
    [41] = "E_TX_SUBMIT_FAIL",
    [42] = "E_TX_CQ_ERROR",
    [43] = "E_TX_QP_RESET",
    [44] = "E_TX_TIMEOUT",
    [45] = "E_ARENA_OOM",
    [46] = "E_PERSIST_UNAVAILABLE",
    [47] = "E_PERSIST_TIMEOUT",
    [48] = "E_PERSIST_DISK_FULL",
    [49] = "E_PERSIST_CORRUPT",
    [50] = "E_ARENA_CORRUPT",
    [52] = "E_FILTER_MALFORMED",
    [53] = "E_FILTER_FRAGMENT",
    [54] = "E_FILTER_DENIED",
    [55] = "E_FILTER_RATE",
    [56] = "E_FILTER_TOPIC",
    [60] = "E_INTERNAL_PANIC",
    [61] = "E_INTERNAL_INVARIANT",
    [62] = "E_INTERNAL_OVERFLOW",
}
-- reasons: end
local BAD_FRAME, BAD_CRC, REF_INVALID, BAD_PACKET, MODE_FORBIDDEN, CORRUPT = 2, 6, 10, 20, 21, 50

local KINDS = { [0] = "data", [1] = "ack", [2] = "nack", [3] = "heartbeat", [4] = "fragment (reserved)" }
local ACK_CLASSES = { [0] = "admitted", [1] = "logged", [2] = "durable" }
local CLASSES = { [0] = "P0, first to keep", [1] = "P1", [2] = "P2", [3] = "P3, first to shed" }

-- Fields are named as in the document, under `tachyon` for the frame and `tachyon.message`, `.provenance`, `.ack`, `.nack`.
local f = {
    magic = ProtoField.string("tachyon.magic", "magic"),
    flags = ProtoField.uint16("tachyon.flags", "flags", base.HEX),
    flag_authenticated = ProtoField.bool("tachyon.flags.authenticated", "AUTHENTICATED", 16, nil, 0x01),
    flag_durable = ProtoField.bool("tachyon.flags.durable", "DURABLE", 16, nil, 0x02),
    flag_ack_wanted = ProtoField.bool("tachyon.flags.ack_wanted", "ACK_WANTED", 16, nil, 0x04),
    flag_trace = ProtoField.bool("tachyon.flags.trace", "TRACE", 16, nil, 0x08),
    flag_provenance = ProtoField.bool("tachyon.flags.provenance", "PROVENANCE", 16, nil, 0x10),
    flag_zero = ProtoField.uint16("tachyon.flags.zero", "must be zero", base.HEX, nil, 0xffe0),
    version = ProtoField.uint8("tachyon.version", "version"),
    kind = ProtoField.uint8("tachyon.kind", "kind", base.DEC, KINDS),
    route_id = ProtoField.uint32("tachyon.route_id", "route_id"),
    frame_id = ProtoField.uint32("tachyon.frame_id", "frame_id"),
    len = ProtoField.uint32("tachyon.len", "len"),
    crc32c = ProtoField.uint32("tachyon.crc32c", "crc32c", base.HEX),
    session_id = ProtoField.uint32("tachyon.session_id", "session_id"),
    shard = ProtoField.uint16("tachyon.shard", "shard"),
    count = ProtoField.uint16("tachyon.count", "count"),
    sent_ns = ProtoField.uint64("tachyon.sent_ns", "sent_ns"),
    sent = ProtoField.absolute_time("tachyon.sent", "sent", base.UTC),
    epoch = ProtoField.uint32("tachyon.epoch", "epoch"),
    reserved = ProtoField.uint32("tachyon.reserved", "zero", base.HEX),
    tag = ProtoField.bytes("tachyon.tag", "tag"),
    fault = ProtoField.uint8("tachyon.fault", "fault", base.DEC, REASONS),
    rest = ProtoField.bytes("tachyon.rest", "bytes that are no part of a frame"),
    padding = ProtoField.bytes("tachyon.padding", "zero"),
    payload_area = ProtoField.bytes("tachyon.payload_area", "payload area"),

    message = ProtoField.none("tachyon.message", "message"),
    message_flags = ProtoField.uint64("tachyon.message.flags", "flags", base.HEX),
    message_inline = ProtoField.bool("tachyon.message.flags.inline_payload", "INLINE_PAYLOAD", 32, nil, 0x01),
    message_arena = ProtoField.bool("tachyon.message.flags.ref_arena", "REF_ARENA", 32, nil, 0x02),
    message_shm = ProtoField.bool("tachyon.message.flags.ref_shm", "REF_SHM", 32, nil, 0x04),
    message_governance = ProtoField.bool("tachyon.message.flags.governance_required", "GOVERNANCE_REQUIRED", 32, nil, 0x08),
    message_system = ProtoField.bool("tachyon.message.flags.system_packet", "SYSTEM_PACKET", 32, nil, 0x10),
    message_priority = ProtoField.bool("tachyon.message.flags.priority_high", "PRIORITY_HIGH", 32, nil, 0x20),
    message_inline_length = ProtoField.uint32("tachyon.message.inline_length", "inline length", base.DEC, nil, 0x003f0000),
    message_class = ProtoField.uint32("tachyon.message.class", "class", base.DEC, CLASSES, 0x00c00000),
    message_topic_id = ProtoField.uint32("tachyon.message.topic_id", "topic_id"),
    message_sender_id = ProtoField.uint32("tachyon.message.sender_id", "sender_id"),
    message_data = ProtoField.bytes("tachyon.message.data", "data"),
    message_arena_id = ProtoField.uint32("tachyon.message.arena_id", "arena_id"),
    message_segment_id = ProtoField.uint64("tachyon.message.segment_id", "segment_id"),
    message_offset = ProtoField.uint64("tachyon.message.offset", "offset"),
    message_length = ProtoField.uint32("tachyon.message.length", "length"),
    message_checksum = ProtoField.uint64("tachyon.message.checksum", "checksum", base.HEX),
    message_payload = ProtoField.bytes("tachyon.message.payload", "payload"),
    message_fault = ProtoField.uint8("tachyon.message.fault", "fault", base.DEC, REASONS),

    provenance = ProtoField.none("tachyon.provenance", "provenance"),
    provenance_session_id = ProtoField.uint32("tachyon.provenance.session_id", "session_id"),
    provenance_epoch = ProtoField.uint32("tachyon.provenance.epoch", "epoch"),
    provenance_frame_id = ProtoField.uint32("tachyon.provenance.frame_id", "frame_id"),
    provenance_shard = ProtoField.uint16("tachyon.provenance.shard", "shard"),
    provenance_index = ProtoField.uint16("tachyon.provenance.index", "index"),

    ack_session_id = ProtoField.uint32("tachyon.ack.session_id", "session_id"),
    ack_epoch = ProtoField.uint32("tachyon.ack.epoch", "epoch"),
    ack_shard = ProtoField.uint16("tachyon.ack.shard", "shard"),
    ack_class = ProtoField.uint8("tachyon.ack.class", "class", base.DEC, ACK_CLASSES),
    ack_cumulative = ProtoField.uint32("tachyon.ack.cumulative", "cumulative"),
    ack_settled = ProtoField.bytes("tachyon.ack.settled", "settled"),
    ack_refused_before = ProtoField.bytes("tachyon.ack.refused_before", "refused_before"),
    ack_refused_after = ProtoField.bytes("tachyon.ack.refused_after", "refused_after"),
    ack_settled_frame = ProtoField.uint32("tachyon.ack.settled_frame", "settled frame"),
    ack_refused_frame = ProtoField.uint32("tachyon.ack.refused_frame", "refused frame"),

    nack_session_id = ProtoField.uint32("tachyon.nack.session_id", "session_id"),
    nack_epoch = ProtoField.uint32("tachyon.nack.epoch", "epoch"),
    nack_shard = ProtoField.uint16("tachyon.nack.shard", "shard"),
    nack_reason = ProtoField.uint8("tachyon.nack.reason", "reason", base.DEC, REASONS),
    nack_frame_id = ProtoField.uint32("tachyon.nack.frame_id", "frame_id"),
    nack_accepted = ProtoField.bytes("tachyon.nack.accepted", "accepted"),
    nack_accepted_message = ProtoField.uint32("tachyon.nack.accepted_message", "accepted message"),
}
tachyon.fields = f

local experts = {
    frame = ProtoExpert.new("tachyon.broken", "The frame breaks the layout", expert.group.MALFORMED, expert.severity.ERROR),
    crc = ProtoExpert.new("tachyon.crc32c.bad", "The crc32c is wrong", expert.group.CHECKSUM, expert.severity.ERROR),
    area = ProtoExpert.new("tachyon.payload_area.broken", "The payload ranges do not cover the payload area exactly",
        expert.group.MALFORMED, expert.severity.ERROR),
    message = ProtoExpert.new("tachyon.message.broken", "The message breaks the layout", expert.group.MALFORMED,
        expert.severity.ERROR),
    checksum = ProtoExpert.new("tachyon.message.checksum.bad", "The payload does not match its checksum",
        expert.group.CHECKSUM, expert.severity.ERROR),
    shard = ProtoExpert.new("tachyon.shard.port", "The shard is not that of the port", expert.group.PROTOCOL,
        expert.severity.NOTE),
    several = ProtoExpert.new("tachyon.several", "Several frames in one datagram", expert.group.PROTOCOL,
        expert.severity.NOTE),
    cut = ProtoExpert.new("tachyon.cut", "The capture holds only a part", expert.group.UNDECODED, expert.severity.NOTE),
}
tachyon.experts = {
    experts.frame, experts.crc, experts.area, experts.message, experts.checksum, experts.shard, experts.several, experts.cut,
}

tachyon.prefs.base_port = Pref.uint("UDP base port", 24640, "The port of shard 0; shard n has base port + n")
tachyon.prefs.port_count = Pref.uint("UDP ports", 64, "How many ports from the base port on carry frames, at least shard_count")
tachyon.prefs.check_crc32c = Pref.bool("Check crc32c", true, "Compute the crc of every frame that has one, and of payloads")

-- crc32c ---------------------------------------------------------------------------------------------------------------

-- Lua 5.2 has bit32 and Wireshark brought `bit` to others; from 5.3 on there are operators, which older ones cannot even read.
local bits = bit32 or bit or load([[return {
    band = function(a, b) return a & b end, bxor = function(a, b) return a ~ b end, rshift = function(a, n) return a >> n end,
}]])()
local band, bxor, rshift = bits.band, bits.bxor, bits.rshift

local CRC_TABLE = {}
for byte = 0, 255 do
    local value = byte
    for _ = 1, 8 do
        -- 0x82f63b78 is the document's polynomial 0x1edc6f41, reflected.
        value = band(value, 1) == 1 and bxor(rshift(value, 1), 0x82f63b78) or rshift(value, 1)
    end
    CRC_TABLE[byte] = value
end

local function crc32c(bytes)
    local crc = 0xffffffff
    for at = 1, #bytes do
        crc = bxor(rshift(crc, 8), CRC_TABLE[band(bxor(crc, bytes:byte(at)), 0xff)])
    end
    -- `bit` counts in signed numbers, the others do not.
    return bxor(crc, 0xffffffff) % 0x100000000
end

-- What a frame says -----------------------------------------------------------------------------------------------------

local function is_zero(range)
    return not range:raw():find("[^\0]")
end

local function lines(bytes)
    return math.floor((bytes + LINE - 1) / LINE)
end

-- The header's numbers by name; `range` is the frame, at least a line of it.
local function read_header(range)
    return {
        flags = range(4, 2):le_uint(), version = range(6, 1):uint(), kind = range(7, 1):uint(),
        route_id = range(8, 4):le_uint(), frame_id = range(12, 4):le_uint(), len = range(16, 4):le_uint(),
        crc32c = range(20, 4):le_uint(), session_id = range(24, 4):le_uint(), shard = range(28, 2):le_uint(),
        count = range(30, 2):le_uint(), epoch = range(40, 4):le_uint(), reserved = range(44, 4):le_uint(),
    }
end

-- Where the parts of a data frame are, in bytes from its start; nil if `count` cannot be.
local function parts(header)
    if header.kind ~= KIND_DATA or header.count == 0 or header.count > MESSAGES_MAX then
        return nil
    end
    local provenance = LINE + LINE * header.count
    local identities = band(header.flags, PROVENANCE) ~= 0 and header.count * IDENTITY or 0
    return { provenance = provenance, identities = identities, payload = provenance + LINE * lines(identities) }
end

local FLAGS_ALLOWED = { [KIND_DATA] = 0x1f, [KIND_ACK] = 0x09, [KIND_NACK] = 0x09, [KIND_HEARTBEAT] = 0x0d }
local BODY_BYTES = { [KIND_ACK] = 2 * LINE, [KIND_NACK] = LINE, [KIND_HEARTBEAT] = 0 }

-- What breaks the header, as words; nil if nothing does. `bytes` is the carrier's length.
local function header_fault(header, range, bytes)
    local allowed = FLAGS_ALLOWED[header.kind]
    local tagged = band(header.flags, AUTHENTICATED) ~= 0
    if header.version ~= 1 then return "version is not 1" end
    if not allowed then return "kind is not known" end
    if LINE + header.len ~= bytes then
        return ("len says %d bytes behind the header, the carrier has %d"):format(header.len, bytes - LINE)
    end
    if header.len % LINE ~= 0 then return "len is not a multiple of 64" end
    if header.flags - band(header.flags, allowed) ~= 0 then return "a flag is set that this kind does not have" end
    if header.reserved ~= 0 then return "the bytes from 44 on must be zero" end
    if header.frame_id == 0 then return "frame_id is 0" end
    if tagged and header.crc32c ~= 0 then return "crc32c beside AUTHENTICATED" end
    if not tagged and not is_zero(range(48, 16)) then return "tag without AUTHENTICATED" end
    return nil
end

-- What breaks the layout behind a sound header, as words.
local function body_fault(header, range)
    if header.kind == KIND_DATA then
        local at = parts(header)
        if not at then return ("count is %d, not 1 to %d"):format(header.count, MESSAGES_MAX) end
        if at.payload > LINE + header.len then return ("count %d does not fit into len %d"):format(header.count, header.len) end
        local padding = at.provenance + at.identities
        if at.payload > padding and not is_zero(range(padding, at.payload - padding)) then
            return "the padding behind the provenance must be zero"
        end
        return nil
    end
    if header.count ~= 0 then return "count must be 0 on this kind" end
    if header.route_id ~= 0 then return "route_id must be 0 on this kind" end
    if header.len ~= BODY_BYTES[header.kind] then return ("len must be %d on this kind"):format(BODY_BYTES[header.kind]) end
    if header.kind == KIND_HEARTBEAT then return nil end
    if range(72, 2):le_uint() ~= header.shard then return "the body's shard is not the header's" end
    if range(75, 1):uint() ~= 0 or not is_zero(range(112, 16)) then return "zeros of the body are not zero" end
    if header.kind == KIND_ACK and range(74, 1):uint() > 2 then return "class is above 2" end
    if header.kind == KIND_NACK and range(74, 1):uint() == 0 then return "reason is 0" end
    if header.kind == KIND_NACK and range(76, 4):le_uint() == 0 then return "frame_id of the body is 0" end
    return nil
end

-- The place of a payload in the frame; nil for every other kind of message.
local function in_frame(message)
    if band(message(0, 1):uint(), 7) ~= 2 or message(16, 4):le_uint() ~= 0 then
        return nil
    end
    return { offset = message(20, 4):le_uint(), high = message(24, 4):le_uint(), length = message(28, 4):le_uint() }
end

-- Whether the payload ranges cover the payload area exactly, in order, on lines, padded with zeros.
local function covers(header, range)
    local at, size = parts(header).payload, LINE + header.len
    for index = 1, header.count do
        local place = in_frame(range(LINE * index, LINE))
        if place then
            local behind = at + LINE * lines(place.length)
            if place.length == 0 or place.high ~= 0 or place.offset ~= at or behind > size then return false end
            local padding = at + place.length
            if behind > padding and not is_zero(range(padding, behind - padding)) then return false end
            at = behind
        end
    end
    return at == size
end

-- The reason for which a message is refused whatever the rules say, and why in words; nil for a sound one.
local function message_fault(message)
    local low, mode = message(0, 4):le_uint(), band(message(0, 1):uint(), 7)
    local length, class = band(rshift(low, 16), 0x3f), band(rshift(low, 22), 3)
    if message(8, 4):le_uint() == 0 then return BAD_PACKET, "topic_id is 0" end
    if message(4, 4):le_uint() ~= 0 or low ~= band(low, 0x00ff003f) % 0x100000000 then return BAD_PACKET, "an unknown flag" end
    if mode ~= 1 and mode ~= 2 and mode ~= 4 then return BAD_PACKET, "not exactly one payload mode" end
    if (band(low, 0x20) ~= 0) ~= (class <= 1) then return BAD_PACKET, "PRIORITY_HIGH does not match the class" end
    if mode == 1 then
        if length > INLINE_MAX then return BAD_PACKET, "inline length is above 48" end
        if length < INLINE_MAX and not is_zero(message(16 + length, INLINE_MAX - length)) then
            return BAD_PACKET, "data beyond the inline length must be zero"
        end
        return nil
    end
    if length ~= 0 then return BAD_PACKET, "an inline length without INLINE_PAYLOAD" end
    local at = mode == 2 and 20 or 24 -- where `offset` is; `length` and `checksum` follow it in both modes
    local bytes = message(at + 8, 4):le_uint()
    if bytes == 0 then return BAD_PACKET, "length is 0" end
    if message(at + 4, 4):le_uint() == 0xffffffff and message(at, 4):le_uint() + bytes > 0xffffffff then
        return BAD_PACKET, "offset and length exceed 64 bits"
    end
    if message(at + 16, 4):le_uint() ~= 0 then return BAD_PACKET, "checksum has more than 32 bits" end
    if not is_zero(message(at + 20, LINE - at - 20)) then return BAD_PACKET, "bytes behind the reference must be zero" end
    -- These are network lanes: only the frame itself can be referred to.
    if mode == 4 or message(16, 4):le_uint() ~= 0 then return MODE_FORBIDDEN, "a network lane has no such memory" end
    return nil
end

-- How it is shown -------------------------------------------------------------------------------------------------------

local HEADER = {
    { 0, 4, f.magic }, { 4, 2, f.flags, {
        f.flag_authenticated, f.flag_durable, f.flag_ack_wanted, f.flag_trace, f.flag_provenance, f.flag_zero } },
    { 6, 1, f.version }, { 7, 1, f.kind }, { 8, 4, f.route_id }, { 12, 4, f.frame_id }, { 16, 4, f.len }, { 20, 4, f.crc32c },
    { 24, 4, f.session_id }, { 28, 2, f.shard }, { 30, 2, f.count }, { 32, 8, f.sent_ns }, { 40, 4, f.epoch },
    { 44, 4, f.reserved }, { 48, 16, f.tag },
}
local IDENTITY_FIELDS = {
    { 0, 4, f.provenance_session_id }, { 4, 4, f.provenance_epoch }, { 8, 4, f.provenance_frame_id },
    { 12, 2, f.provenance_shard }, { 14, 2, f.provenance_index },
}
local ACK = {
    { 0, 4, f.ack_session_id }, { 4, 4, f.ack_epoch }, { 8, 2, f.ack_shard }, { 10, 1, f.ack_class },
    { 12, 4, f.ack_cumulative },
}
local NACK = {
    { 0, 4, f.nack_session_id }, { 4, 4, f.nack_epoch }, { 8, 2, f.nack_shard }, { 10, 1, f.nack_reason },
    { 12, 4, f.nack_frame_id },
}
local MESSAGE = {
    { 8, 4, f.message_topic_id }, { 12, 4, f.message_sender_id },
}
local MESSAGE_FLAGS = {
    f.message_inline, f.message_arena, f.message_shm, f.message_governance, f.message_system, f.message_priority,
    f.message_inline_length, f.message_class,
}
local ARENA_REFERENCE = {
    { 16, 4, f.message_arena_id }, { 20, 8, f.message_offset }, { 28, 4, f.message_length }, { 32, 8, f.message_checksum },
}
local SHM_REFERENCE = {
    { 16, 8, f.message_segment_id }, { 24, 8, f.message_offset }, { 32, 4, f.message_length }, { 36, 8, f.message_checksum },
}

-- Adds the fields of a table that lie wholly within `range`: a frame may be cut anywhere.
local function add_fields(tree, fields, range)
    for _, field in ipairs(fields) do
        if field[1] + field[2] <= range:len() then
            local part = range(field[1], field[2])
            local item = tree:add_le(field[3], part)
            for _, bit_field in ipairs(field[4] or {}) do
                item:add_le(bit_field, part)
            end
        end
    end
end

local function add_sent(tree, range)
    local sent_ns = range(32, 8):le_uint64()
    if sent_ns == UInt64(0) then
        return -- the document allows 0: the sender has no clock to speak of
    end
    local second = UInt64(1000000000)
    tree:add(f.sent, range(32, 8), NSTime((sent_ns / second):tonumber(), (sent_ns % second):tonumber())):set_generated()
end

-- Shows a fault as a field to filter by and as expert information.
local function add_fault(tree, field, reason, kind, why)
    tree:add(field, reason):set_generated()
    tree:add_proto_expert_info(kind, REASONS[reason] .. ": " .. why)
    tree:append_text(" [" .. REASONS[reason] .. "]")
end

-- A map and, so that one can filter by them, what its bits stand for. `number` turns a bit's index into that, or nil.
local function add_map(tree, map_field, bit_field, range, number)
    local item, count = tree:add(map_field, range), 0
    for index = 0, range:len() * 8 - 1 do
        local byte = math.floor(index / 8)
        if band(rshift(range(byte, 1):uint(), index % 8), 1) == 1 then
            local value = number(index)
            if value and value >= 0 and value <= 0xffffffff then
                item:add(bit_field, range(byte, 1), value):set_generated()
                count = count + 1
            end
        end
    end
    item:append_text((" (%d)"):format(count))
    return count
end

local function add_ack(tree, range)
    local body = range(LINE, range:len() - LINE)
    local branch = tree:add(body, "ack")
    add_fields(branch, ACK, body)
    if body:len() < 2 * LINE then
        return "ack"
    end
    local cumulative = body(12, 4):le_uint()
    local ahead = function(index) return cumulative + 1 + index end
    local behind = function(index)
        return cumulative > index and cumulative - index or nil -- there is no frame 0
    end
    local settled = add_map(branch, f.ack_settled, f.ack_settled_frame, body(16, 32), ahead)
    local refused = add_map(branch, f.ack_refused_before, f.ack_refused_frame, body(64, 32), behind)
    refused = refused + add_map(branch, f.ack_refused_after, f.ack_refused_frame, body(96, 32), ahead)
    return ("ack of session %d: %s to %d and %d more, %d refused"):format(body(0, 4):le_uint(),
        ACK_CLASSES[body(10, 1):uint()] or "?", cumulative, settled, refused)
end

local function add_nack(tree, range)
    local body = range(LINE, range:len() - LINE)
    local branch = tree:add(body, "nack")
    add_fields(branch, NACK, body)
    if body:len() < LINE then
        return "nack"
    end
    local accepted = add_map(branch, f.nack_accepted, f.nack_accepted_message, body(16, 32), function(index) return index end)
    local reason = body(10, 1):uint()
    return ("nack of session %d, frame %d: %s, %d accepted"):format(body(0, 4):le_uint(), body(12, 4):le_uint(),
        REASONS[reason] or ("reason " .. reason), accepted)
end

-- The payload of a message with its checksum compared; `whole` says that the payload area is sound and all there.
local function add_payload(branch, message, range, whole)
    local place = in_frame(message)
    if not place or not whole then
        return
    end
    local payload = range(place.offset, place.length)
    branch:add(f.message_payload, payload)
    if tachyon.prefs.check_crc32c and crc32c(payload:raw()) ~= message(32, 4):le_uint() then
        add_fault(branch, f.message_fault, CORRUPT, experts.checksum, "the payload does not match its checksum")
    end
end

local function add_message(tree, index, message, range, whole)
    local mode, length = band(message(0, 1):uint(), 7), band(message(2, 1):uint(), 0x3f)
    local branch = tree:add(f.message, message)
    branch:set_text(("message %d: topic %d, sender %d, P%d"):format(index, message(8, 4):le_uint(), message(12, 4):le_uint(),
        rshift(message(2, 1):uint(), 6)))
    local flags = branch:add_le(f.message_flags, message(0, 8))
    for _, flag in ipairs(MESSAGE_FLAGS) do
        flags:add_le(flag, message(0, 4)) -- the upper half has no flags, only zeros
    end
    add_fields(branch, MESSAGE, message)
    if mode == 2 then
        add_fields(branch, ARENA_REFERENCE, message)
    elseif mode == 4 then
        add_fields(branch, SHM_REFERENCE, message)
    elseif mode ~= 1 or length > INLINE_MAX then
        branch:add(f.message_data, message(16, INLINE_MAX))
    elseif length > 0 then
        branch:add(f.message_payload, message(16, length))
    end
    local reason, why = message_fault(message)
    if reason then
        add_fault(branch, f.message_fault, reason, experts.message, why)
    else
        add_payload(branch, message, range, whole)
    end
end

-- Messages, provenance and payload area, as far as they are there.
local function add_data(tree, header, range, whole)
    local size = range:len()
    local at = parts(header)
    for index = 0, math.min(header.count, MESSAGES_MAX) - 1 do
        local offset = LINE * (index + 1)
        if offset + LINE > size then break end
        add_message(tree, index, range(offset, LINE), range, whole)
    end
    if not at then
        return
    end
    for index = 0, at.identities / IDENTITY - 1 do
        local offset = at.provenance + IDENTITY * index
        if offset + IDENTITY > size then break end
        local branch = tree:add(f.provenance, range(offset, IDENTITY))
        branch:set_text(("provenance of message %d"):format(index))
        add_fields(branch, IDENTITY_FIELDS, range(offset, IDENTITY))
    end
    local padding = at.provenance + at.identities
    if at.payload > padding and at.payload <= size then
        tree:add(f.padding, range(padding, at.payload - padding))
    end
    if at.payload < size then
        tree:add(f.payload_area, range(at.payload, size - at.payload))
    end
end

local function add_body(tree, header, range, whole)
    if header.kind == KIND_DATA then
        add_data(tree, header, range, whole)
        return ("data, %d message%s"):format(header.count, header.count == 1 and "" or "s")
    end
    if header.kind == KIND_ACK and range:len() > LINE then return add_ack(tree, range) end
    if header.kind == KIND_NACK and range:len() > LINE then return add_nack(tree, range) end
    if range:len() > LINE then
        tree:add(f.rest, range(LINE, range:len() - LINE))
    end
    return KINDS[header.kind] or ("kind " .. header.kind)
end

-- The first frame check that fails, of those that need nothing but the bytes: its reason, its expert and words.
local function frame_fault(header, range, bytes)
    local why = header_fault(header, range, bytes) or body_fault(header, range)
    if why then
        return BAD_FRAME, experts.frame, why
    end
    if band(header.flags, AUTHENTICATED) == 0 and tachyon.prefs.check_crc32c then
        local raw = range:raw()
        local crc = crc32c(raw:sub(1, 20) .. "\0\0\0\0" .. raw:sub(25))
        if crc ~= header.crc32c then
            return BAD_CRC, experts.crc, ("crc32c should be 0x%08x"):format(crc)
        end
    end
    if header.kind == KIND_DATA and not covers(header, range) then
        return REF_INVALID, experts.area, "the payload ranges do not cover the payload area exactly"
    end
    return nil
end

-- Notes a shard that is not its port's. Only a note: subscribers choose ports of their own, and theirs may overlap ours.
local function note_shard(tree, header, pinfo)
    local shard = pinfo.dst_port - tachyon.prefs.base_port
    if shard >= 0 and shard < tachyon.prefs.port_count and shard ~= header.shard then
        tree:add_proto_expert_info(experts.shard, ("port %d is that of shard %d"):format(pinfo.dst_port, shard))
    end
end

-- Bytes that do not even have a header.
local function add_no_frame(tree, range, why)
    local is_frame = range:len() >= 4 and range(0, 4):raw() == "RTT1"
    if is_frame then
        add_fields(tree, HEADER, range)
    else
        tree:add(f.rest, range)
    end
    add_fault(tree, f.fault, BAD_FRAME, experts.frame, why)
    return ("no frame: %s [%s]"):format(why, REASONS[BAD_FRAME])
end

-- One frame: `range` is what was captured of it, `bytes` what the carrier had. Returns its summary.
local function add_frame(root, range, bytes, pinfo)
    local tree = root:add(tachyon, range)
    local cut = range:len() < bytes
    if cut then
        tree:add_proto_expert_info(experts.cut, ("the capture holds %d of %d bytes"):format(range:len(), bytes))
    end
    if range:len() >= 4 and range(0, 4):raw() ~= "RTT1" then
        return add_no_frame(tree, range, "magic is not RTT1")
    end
    if bytes < LINE then
        return add_no_frame(tree, range, ("%d bytes, less than a header"):format(bytes))
    end
    add_fields(tree, HEADER, range)
    if range:len() < LINE then
        return "frame cut by the capture"
    end
    local header = read_header(range)
    add_sent(tree, range)
    local reason, kind, why
    if not cut then
        reason, kind, why = frame_fault(header, range, bytes)
    end
    local whole = not cut and reason ~= BAD_FRAME and header.kind == KIND_DATA and covers(header, range)
    note_shard(tree, header, pinfo)
    local what = add_body(tree, header, range, whole)
    tree:append_text((", %s, session %d, shard %d, epoch %d, frame %d"):format(what, header.session_id, header.shard,
        header.epoch, header.frame_id))
    local summary = ("%s  s=%d shard=%d epoch=%d frame=%d"):format(what, header.session_id, header.shard, header.epoch,
        header.frame_id)
    if header.route_id ~= 0 then summary = summary .. (" route=%d"):format(header.route_id) end
    if reason then
        add_fault(tree, f.fault, reason, kind, why)
        summary = summary .. " [" .. REASONS[reason] .. "]"
    end
    return summary
end

-- Bytes of the frame that starts at `at`. A datagram carries one; but a capture on the sending or receiving host sees what
-- the kernel joined (GSO, GRO), so where exactly behind a frame another begins, it is one of its own.
local function frame_bytes(buffer, at, bytes)
    if at + LINE > buffer:len() then
        return bytes - at
    end
    local size = LINE + buffer(at + 16, 4):le_uint()
    local joined = at + size + 4 <= buffer:len() and buffer(at + size, 4):raw() == "RTT1"
    return joined and size or bytes - at
end

function tachyon.dissector(buffer, pinfo, root)
    local bytes, held = buffer:reported_len(), buffer:len()
    pinfo.cols.protocol = "Tachyon"
    local at, count, summary = 0, 0, "nothing captured"
    while at < held do
        local size = frame_bytes(buffer, at, bytes)
        local text = add_frame(root, buffer(at, math.min(size, held - at)), size, pinfo)
        if count == 0 then summary = text end
        at, count = at + size, count + 1
    end
    if count > 1 then
        summary = ("%s  and %d more frames"):format(summary, count - 1)
        root:add_proto_expert_info(experts.several, ("%d frames in one datagram: captured before the kernel parts them, "
            .. "or after it joined them"):format(count))
    end
    pinfo.cols.info = summary
    return held
end

-- Frames on ports that no preference names: the magic is enough, four bytes that nothing else begins with.
tachyon:register_heuristic("udp", function(buffer, pinfo, root)
    if buffer:len() < 4 or buffer(0, 4):raw() ~= "RTT1" then
        return false
    end
    tachyon.dissector(buffer, pinfo, root)
    return true
end)

local ports
local function listen()
    local udp = DissectorTable.get("udp.port")
    if ports then udp:remove(ports, tachyon) end
    local first = math.min(tachyon.prefs.base_port, 65535)
    local last = math.min(first + tachyon.prefs.port_count - 1, 65535)
    ports = tachyon.prefs.port_count > 0 and ("%d-%d"):format(first, last) or nil
    if ports then udp:add(ports, tachyon) end
end

tachyon.prefs_changed = listen
listen()
