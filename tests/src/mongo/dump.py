"""Writes a mongodump directory with PyMongo alone: dump.py PORT DATABASE DIRECTORY [--gzip]

To the letter of what mongodump 100.18 was observed to write: names of files, metadata in canonical Extended JSON with its
order of keys, buckets without metadata, views without data, a prelude, and an oplog.bson that is never compressed by name.
"""

import base64
import gzip
import hashlib
import pathlib
import sys
import urllib.parse

from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.son import SON
from pymongo import MongoClient

RAW = CodecOptions(document_class=RawBSONDocument)
ORDERED = CodecOptions(document_class=SON)


def stem(name):
    escaped = urllib.parse.quote_plus(name)
    if len(escaped) <= 238:
        return escaped
    return escaped[:208] + "%24" + base64.urlsafe_b64encode(hashlib.sha1(name.encode()).digest()).decode().rstrip("=")


def write(path, content, compress):
    if compress:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)


def main(port, database, directory, compress=None):
    client = MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true")
    db = client.get_database(database, codec_options=ORDERED)
    top = pathlib.Path(directory)
    out = top / database
    out.mkdir(parents=True)
    version = client.admin.command("buildInfo")["version"]
    prelude = f'{{"ServerVersion":"{version}","ToolVersion":"100.18.0"}}'
    write(top / "prelude.json", prelude.encode(), compress)
    (top / "oplog.bson").write_bytes(gzip.compress(b"") if compress else b"")
    listed = db.command("listCollections", cursor={"batchSize": 100_000})["cursor"]["firstBatch"]
    for entry in listed:
        name, kind = entry["name"], entry["type"]
        documents = lambda: b"".join(d.raw for d in db.get_collection(name, codec_options=RAW).find(hint=[("$natural", 1)]))
        if name.startswith("system.buckets."):
            write(out / f"{stem(name)}.bson", documents(), compress)
        if name.startswith("system."):
            continue
        metadata = SON()
        if entry["options"]:
            metadata["options"] = entry["options"]
        indexes = []
        if kind != "view":
            indexes = db.command("listIndexes", name, cursor={"batchSize": 1000})["cursor"]["firstBatch"]
        metadata["indexes"] = indexes
        if kind == "collection":
            metadata["uuid"] = entry["info"]["uuid"].hex()
            write(out / f"{stem(name)}.bson", documents(), compress)
        metadata["collectionName"] = name
        metadata["type"] = kind
        text = json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS, separators=(",", ":"))
        write(out / f"{stem(name)}.metadata.json", text.encode(), compress)


main(*sys.argv[1:])
