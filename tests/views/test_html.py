from __future__ import annotations

from advantage.views.html import element, page, section, table, text


def test_text_and_attributes_are_escaped() -> None:
    hostile = """<script>"x"</script>&'"""
    assert text(hostile) == "&lt;script&gt;&quot;x&quot;&lt;/script&gt;&amp;&#x27;"
    assert element("p", class_=hostile) == f'<p class="{text(hostile)}"></p>'


def test_a_page_names_its_policy_before_anything_else_and_escapes_its_title() -> None:
    document = page("<b>", section("</style>"))
    head = document[: document.index("<title>")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in head
    assert "<title>&lt;b&gt;</title>" in document
    assert document.count("</style>") == 1
    assert "<script" not in document and "http" not in document.replace("http-equiv", "")


def test_a_table_sets_numbers_to_the_right_and_marks_rows() -> None:
    shown = table(["a", "b"], [[text("x"), text("1")], [text("y"), text("2")]], numbers=[1], marked=[1])
    assert '<th>a</th><th class="number">b</th>' in shown
    assert '<tr class="marked"><td>y</td><td class="number">2</td></tr>' in shown
