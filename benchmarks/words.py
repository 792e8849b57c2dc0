"""Reading text: microseconds per text of `words`, by script.

    python benchmarks/words.py [--texts 4000]

Texts of 60 words in Latin script, of 200 letters in Japanese and Chinese, of 40 words without blanks in Thai. CPU time of one core, best
of three.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from ospo_cli.text.words import words

# Pieces that texts are drawn from, what stands between them, and how many there are in a text.
SCRIPTS: dict[str, tuple[str, str, int]] = {
    "English, ASCII": ("womens waterproof running shoes light size 8.5 black mesh sole", " ", 60),
    "German": ("Damen Laufschuhe wasserdicht leicht bequem mit Dämpfung für Straße und Gelände Größe 39 schwarz 15.6 Zoll", " ", 60),
    "Japanese": (" ".join("防水スマートフォンケース女性用の長い靴下革製高級無線"), "", 200),
    "Chinese": (" ".join("无线蓝牙耳机真皮钱包红色羊毛大衣"), "", 200),
    "Thai": ("รองเท้า วิ่ง ผู้ชาย เสื้อ กันน้ำ", "", 40),
}


def main() -> None:
    """Print a line per script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4000)
    count = parser.parse_args().texts
    for name, (pieces, between, size) in SCRIPTS.items():
        draw = np.random.default_rng(0)
        texts = [between.join(draw.choice(pieces.split(), size=size)) for _ in range(count)]
        seconds = []
        for _ in range(3):
            start = time.process_time()
            found = sum(len(words(text)) for text in texts)
            seconds.append(time.process_time() - start)
        print(f"{name:16} {min(seconds) / count * 1e6:8.1f} µs per text of {found / count:.0f} words")


if __name__ == "__main__":
    main()
