"""Signed verdicts: a decided run comes in, in-toto statements in DSSE envelopes go out; and they are verified against a folder.

    statement.py   what is signed, as closed records      predicates.py  a run → its statements, pure
    keys.py        keys from files and URIs               envelope.py    payloads ⇄ signed lines
    verify.py      the checks, in order                   bom.py         a run → a CycloneDX ML-BOM
    folder_signature.py  model-signing's own signature of the folder

`gate verify` needs pydantic, cryptography and securesystemslib, and nothing else of what the gate is made of.
"""
