"""What the schema and the page of the config are made of: arguments, docstrings, pieces of JSON Schema.

settable      what a section may name and set      docstrings    the texts of arguments
schema_blocks, schema_types    pieces of JSON Schema
"""
