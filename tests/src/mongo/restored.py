"""Compares a database with a dump of it, with PyMongo alone: restored.py PORT DATABASE DIRECTORY

Bytes of documents, options, and indexes, of every namespace; in natural order where that counts.
"""

import gzip
import hashlib
import json
import pathlib
import struct
import sys

from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

# The restore laws change documents of these.
CORRECTED = {"cluster_leadership", "cluster_join_tokens"}
RAW = CodecOptions(document_class=RawBSONDocument)


def in_file(path):
    with gzip.open(path) as f:
        while head := f.read(4):
            size = struct.unpack("<i", head)[0]
            yield head + f.read(size - 4)


def in_server(collection):
    cursor = collection.with_options(codec_options=RAW).find({}, hint=[("$natural", 1)])
    return (document.raw for document in cursor)


def digests(documents, ordered):
    found = [hashlib.sha256(d).digest() for d in documents]
    return found if ordered else sorted(found)


def plain(value):
    """Without what each server makes anew, and in one order."""
    return json.loads(json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS))


def number(value):
    """The value of a number, however it is typed: collMod writes an Int64 where there was an Int32."""
    return int(next(iter(value.values()))) if isinstance(value, dict) else value


def comparable(document):
    document = {k: v for k, v in document.items() if k not in ("v", "ns")}
    if "expireAfterSeconds" in document:
        document["expireAfterSeconds"] = number(document["expireAfterSeconds"])
    return document


def main(port, database, directory):
    db = MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true")[database]
    live = {c["name"]: c for c in db.list_collections() if not c["name"].startswith("system.")}
    failed = False
    for path in sorted((pathlib.Path(directory) / database).glob("*.metadata.json.gz")):
        metadata = json.loads(gzip.open(path).read())
        name, kind = metadata["collectionName"], metadata["type"]
        there = live.pop(name, None)
        problems = []
        if there is None or there["type"] != kind:
            problems.append("it is missing, or of another kind")
        else:
            options = comparable(plain(there.get("options", {})))
            if options != comparable(metadata.get("options", {})):
                problems.append(f"options {options}")
            if kind != "view":
                by_name = lambda all: {i["name"]: comparable(i) for i in all}
                indexes = by_name(plain(list(db[name].list_indexes())))
                if indexes != by_name(metadata["indexes"]):
                    problems.append(f"indexes {indexes}")
                buckets = kind == "timeseries"
                stem = path.name.removesuffix(".metadata.json.gz")
                data = path.with_name(f"{'system.buckets.' if buckets else ''}{stem}.bson.gz")
                source = db[("system.buckets." if buckets else "") + name]
                ordered = bool(options.get("capped"))
                if name not in CORRECTED and digests(in_file(data), ordered) != digests(in_server(source), ordered):
                    problems.append("documents")
        failed |= bool(problems)
        print(f"{name}: {kind}, {'; '.join(problems) or 'equal'}")
    for name in live:
        failed = True
        print(f"{name}: not in the dump")
    return failed


sys.exit(main(*sys.argv[1:]))
