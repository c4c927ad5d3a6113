#!/usr/bin/env python3
"""Reads and judges a truth log. Written from control/log/FORMAT.md alone, with nothing but Python's own library, so that
a fault of the writer is not one of this reader too. Slow; made to be read.

    read.py FOLDER [--key NAME+ID+KEY] [--records]

Prints one JSON object and exits with 1 if the log may not be believed."""
import argparse
import base64
import hashlib
import json
import os
import re
import struct
import sys

BLOCK = 4096


# --- crc32c ---------------------------------------------------------------------------------------------------------
def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


# --- BLAKE3, plain hash of at least one byte ------------------------------------------------------------------------
_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_MIX = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def _compress(chain, block, counter, length, flags):
    mask = 0xFFFFFFFF
    state = list(chain) + list(_IV[:4]) + [counter & mask, counter >> 32, length, flags]
    words = list(block)
    for turn in range(7):
        for index, (a, b, c, d) in enumerate(_MIX):
            for word, first, second in ((words[2 * index], 16, 12), (words[2 * index + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & mask
                mixed = state[d] ^ state[a]
                state[d] = (mixed >> first | mixed << (32 - first)) & mask
                state[c] = (state[c] + state[d]) & mask
                mixed = state[b] ^ state[c]
                state[b] = (mixed >> second | mixed << (32 - second)) & mask
        words = [words[place] for place in _ORDER]
    return tuple(state[i] ^ state[i + 8] for i in range(8))


def _chunk(data, counter, root):
    chain = _IV
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for index, block in enumerate(blocks):
        flags = _CHUNK_START if index == 0 else 0
        if index == len(blocks) - 1:
            flags |= _CHUNK_END | (_ROOT if root else 0)
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        chain = _compress(chain, words, counter, len(block), flags)
    return chain


def _subtree(data, counter, root):
    if len(data) <= 1024:
        return _chunk(data, counter, root)
    chunks = (len(data) - 1) // 1024
    left = 1 << (chunks.bit_length() - 1)
    halves = _subtree(data[: left * 1024], counter, False) + _subtree(data[left * 1024 :], counter + left, False)
    return _compress(_IV, halves, 0, 64, _PARENT | (_ROOT if root else 0))


def blake3(data):
    return struct.pack("<8I", *_subtree(data, 0, True))


# --- Ed25519, checking only (RFC 8032, 6) ---------------------------------------------------------------------------
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P


def _point_add(one, other):
    a, b = (one[1] - one[0]) * (other[1] - other[0]) % _P, (one[1] + one[0]) * (other[1] + other[0]) % _P
    c, d = 2 * one[3] * other[3] * _D % _P, 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _point_mul(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _point_add(result, point)
        point = _point_add(point, point)
        scalar >>= 1
    return result


def _point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return (x, y, 1, x * y % _P)


_BASE = _point((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))


def ed25519(key, message, signature):
    public, nonce = _point(key), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or public is None or nonce is None or scalar >= _L:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % _L
    left, right = _point_mul(scalar, _BASE), _point_add(nonce, _point_mul(digest, public))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (left[1] * right[2] - right[1] * left[2]) % _P == 0


# --- the tree -------------------------------------------------------------------------------------------------------
def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


class Edge:
    """Perfect subtrees, largest first, as pairs of size and hash."""

    def __init__(self, size=0, hashes=()):
        sizes = [1 << bit for bit in range(63, -1, -1) if size >> bit & 1]
        self.size, self.trees = size, list(zip(sizes, hashes))

    def push(self, leaf):
        size = 1
        while self.trees and self.trees[-1][0] == size:
            _, left = self.trees.pop()
            size, leaf = size * 2, node(left, leaf)
        self.trees.append((size, leaf))
        self.size += 1

    def root(self):
        if not self.trees:
            return hashlib.sha256(b"").digest()
        result = self.trees[-1][1]
        for _, tree in reversed(self.trees[:-1]):
            result = node(tree, result)
        return result


# --- notes ----------------------------------------------------------------------------------------------------------
class Key:
    def __init__(self, text):
        self.name, identity, key = text.split("+", 2)
        key = base64.b64decode(key)
        self.id = hashlib.sha256(self.name.encode() + b"\n" + key).digest()[:4]
        if key[0] != 1 or self.id.hex() != identity:
            raise ValueError("no Ed25519 verifier key")
        self.key = key[1:]

    def checkpoint(self, note):
        """Size and root of a valid note."""
        text, _, signatures = note.partition("\n\n")
        text += "\n"
        for line in signatures.splitlines():
            if line.startswith("\u2014 " + self.name + " "):
                raw = base64.b64decode(line.rsplit(" ", 1)[1])
                if raw[:4] == self.id and ed25519(self.key, text.encode(), raw[4:]):
                    origin, size, root = text.splitlines()[:3]
                    return (int(size), base64.b64decode(root)) if origin == self.name else None
        return None


# --- the log --------------------------------------------------------------------------------------------------------
class Log:
    def __init__(self, folder, key):
        self.folder, self.key = folder, key
        self.findings, self.records = [], []
        self.commits = self.checkpoints = self.segments = 0
        self.first, self.edge, self.buried = None, None, False

    def find(self, where, what):
        self.findings.append(f"{where}: {what}")

    def read(self):
        names = sorted(name for name in os.listdir(self.folder) if re.fullmatch(r"segment-\d{20}\.log", name))
        expected, ended = None, True
        for name in names:
            with open(os.path.join(self.folder, name), "rb") as file:
                data = file.read()
            header = self.segment(name, data, expected)
            if header is None:
                return self
            if not ended:
                self.find(name, "the segment before has no end")
            expected, ended = self.commits_of(name, data, header)
            if expected is None:
                return self
        if ended:
            self.find(self.folder, "the last segment is missing")
        if self.first and self.first["first_sequence"] and not self.buried:
            self.find(self.folder, "records before the first are gone and no tombstone says so")
        return self

    def segment(self, name, data, expected):
        block = data[:BLOCK]
        if len(block) < BLOCK or blake3(block[:4064]) != block[4064:] or block[:8] != b"TLOGSEG1":
            return self.find(name, "the segment's header is damaged")
        fields = struct.unpack_from("<HHI16sQQQQ32s32s", block, 8)
        version, shard, zero, log_id, first, commit, length, _, previous, root = fields
        count = bin(first).count("1")
        edge = Edge(first, [block[128 + 32 * i : 160 + 32 * i] for i in range(count)])
        header = dict(shard=shard, log_id=log_id, first_sequence=first, first_commit=commit, previous=previous, root=root)
        sound = version == 1 and zero == 0 and not any(block[128 + 32 * count : 4064])
        if not sound or edge.root() != root or int(name[8:28]) != first:
            return self.find(name, "the segment's header contradicts itself or its name")
        if len(data) != length:
            return self.find(name, f"the file should have {length} bytes")
        if expected and expected != (commit, first, previous):
            return self.find(name, "the segment does not follow from the one before")
        if self.first and (self.first["log_id"], self.first["shard"]) != (log_id, shard):
            return self.find(name, "the segment is of another log")
        if self.edge and self.edge.root() != root:
            return self.find(name, "the tree does not follow")
        self.first = self.first or header
        self.edge = self.edge or edge
        self.segments += 1
        return header

    def commits_of(self, name, data, segment):
        at = BLOCK
        expected = (segment["first_commit"], segment["first_sequence"], segment["previous"])
        while True:
            header = data[at : at + 160]
            if not any(data[at:]):
                return expected, False
            if len(header) < 160 or crc32c(header[:156]) != struct.unpack_from("<I", header, 156)[0]:
                return self.find(name, f"byte {at}: commit {expected[0]} is damaged or torn"), False
            magic, version, flags, shard, number, first, count, length, used, zero, _, _, log_id, previous, digest = (
                struct.unpack_from("<4sBBHQQIIIIQQ16s32s32s", header)
            )
            commit = data[at : at + length]
            plain = commit[:104] + bytes(32) + commit[136:156] + bytes(4) + commit[160:]
            sound = magic == b"TLC1" and version == 1 and flags < 4 and zero == 0 and not any(header[136:156])
            sound = sound and length == -(-(160 + used) // BLOCK) * BLOCK == len(commit) and blake3(plain) == digest
            sound = sound and set(commit[160 + used :]) <= {0xA5}
            damaged = self.records_of(name, commit, first, count, 160 + used)
            if damaged is not None or not sound:
                what = f"record {damaged}" if damaged is not None else f"commit {expected[0]}"
                return self.find(name, f"byte {at}: {what} is damaged"), False
            if (number, first, previous) != expected or (log_id, shard) != (segment["log_id"], segment["shard"]):
                return self.find(name, f"byte {at}: commit {expected[0]} does not follow"), False
            self.commits += 1
            at += length
            expected = (number + 1, first + count, digest)
            if flags & 2:
                if any(data[at:]):
                    self.find(name, f"byte {at}: bytes behind the last commit")
                return expected, True

    def records_of(self, name, commit, sequence, count, end):
        """The sequence of the first record that does not hold, or nothing."""
        at = 160
        for sequence in range(sequence, sequence + count):
            header = commit[at : min(at + 32, end)]
            if len(header) < 32 or crc32c(header[:28]) != struct.unpack_from("<I", header, 28)[0]:
                return sequence
            length, kind, zeros, number, tick, crc = struct.unpack_from("<IB3sQQI", header)
            body = commit[at + 32 : at + 32 + length]
            stop = at + -(-(32 + length) // 8) * 8
            if stop > end or number != sequence or any(zeros) or crc32c(body) != crc or any(commit[at + 32 + length : stop]):
                return sequence
            self.record(name, sequence, kind, tick, body)
            self.edge.push(hashlib.sha256(b"\0" + header + body).digest())
            at = stop
        return None if at == end else sequence

    def record(self, name, sequence, kind, tick, body):
        self.records.append((sequence, kind, tick, body))
        if kind == 8 and self.key:
            found = self.key.checkpoint(body.decode())
            if found != (sequence, self.edge.root()):
                self.find(name, f"the checkpoint in record {sequence} is not valid")
            self.checkpoints += 1
        if kind == 6:
            first, end, end_commit, chain, root = struct.unpack_from("<QQQ32s32s", body)
            message = b"tachyon 1 tombstone\n" + self.first["log_id"] + body[:104]
            if self.key and not ed25519(self.key.key, message, body[104:]):
                self.find(name, f"the tombstone in record {sequence} is not valid")
            left = tuple(self.first[field] for field in ("first_sequence", "first_commit", "previous", "root"))
            self.buried |= left == (end, end_commit, chain, root)


def main():
    parser = argparse.ArgumentParser(description="Reads and judges a truth log.")
    parser.add_argument("folder")
    parser.add_argument("--key", help="verifier key: name+id+key")
    parser.add_argument("--records", action="store_true", help="print the records too")
    words = parser.parse_args()
    log = Log(words.folder, Key(words.key) if words.key else None).read()
    result = {
        "segments": log.segments,
        "commits": log.commits,
        "first_sequence": log.first["first_sequence"] if log.first else 0,
        "next_sequence": log.edge.size if log.edge else 0,
        "root": log.edge.root().hex() if log.edge else "",
        "checkpoints": log.checkpoints,
        "findings": log.findings,
    }
    if words.records:
        result["records"] = [{"sequence": s, "kind": k, "tick": t, "body": b.hex()} for s, k, t, b in log.records]
    print(json.dumps(result, indent=1))
    return 1 if log.findings else 0


if __name__ == "__main__":
    sys.exit(main())
