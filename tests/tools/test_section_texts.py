"""Every section of a config, and every key of its blocks, has a text."""
from tools.reference.section_texts import KEY_TEXTS, SECTION_TEXTS
from utils.config.sections import SECTIONS, TRANSFORM_KEYS


def test_every_section_and_every_key_has_a_text_and_nothing_else_has():
    assert [*SECTION_TEXTS] == ["extends", *SECTIONS]
    keys = {section: about.keys for section, about in SECTIONS.items() if about.keys}
    assert {section: tuple(texts) for section, texts in KEY_TEXTS.items()} == {
        **keys, "transforms": TRANSFORM_KEYS}
