"""Readers of data sets behind one protocol (`base`); a new one is a module and a line in SOURCES."""

SOURCES: dict[str, str] = {
    "demo-shop": "ospo_cli.sources.demo_shop:read",
    "controlled": "ospo_cli.sources.controlled:read",
    "tables": "ospo_cli.sources.tables:read",
    "clicks": "ospo_cli.sources.clicks:read",
    "esci": "ospo_cli.sources.esci:read",
    "hm": "ospo_cli.sources.hm:read",
    "wands": "ospo_cli.sources.wands:read",
    "beir": "ospo_cli.sources.beir:read",
}
