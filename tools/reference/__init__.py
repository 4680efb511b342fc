"""The parts of the schema and of the config page: arguments, docstrings, pieces of JSON Schema.

settable      what a section may name and set      docstrings    texts of things and arguments
schema_blocks, schema_types    pieces of JSON Schema
"""
