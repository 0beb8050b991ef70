"""Draw the nameable things of the drawn worlds from Noto Color Emoji into one atlas file.

command:  python recipes/build_objects.py
needs:    the font of Debian's `fonts-noto-color-emoji` (OFL / Apache-2.0), Pillow with WebP
result:   src/timeviper/synth/data/objects.webp and objects.json, the same bytes each run; 30 s
"""

import argparse
import io
import json
import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
DATA = Path(__file__).resolve().parents[1] / "src" / "timeviper" / "synth" / "data"
CELL = 96
COLUMNS = 20
# Of the WebP's colours; its alpha is kept exactly. The atlas must stay below 2 MiB.
QUALITY = 80
LICENCE = (
    "Drawings: Noto Color Emoji, copyright Google Inc., images under Apache-2.0 and font under the "
    "SIL Open Font License 1.1; scaled to 96x96 cells. Names are ours."
)

# One drawing a name, one name a drawing. Left out: people, hands, flags, symbols, and whatever
# looked at 16 px like something before it in the list (a second clock, book, bus or mailbox).
ANIMALS = """
🐀 rat, 🐂 ox, 🐄 cow, 🐅 tiger, 🐇 rabbit, 🐈 cat, 🐉 dragon, 🐋 whale, 🐌 snail, 🐍 snake,
🐎 horse, 🐏 ram, 🐑 sheep, 🐓 rooster, 🐔 chicken, 🐕 dog, 🐖 pig, 🐙 octopus, 🐚 seashell,
🐛 caterpillar, 🐝 bee, 🐞 ladybug, 🐟 fish, 🐠 tropical fish, 🐡 blowfish, 🐢 turtle,
🐣 hatching chick, 🐤 chick, 🐦 bird, 🐧 penguin, 🐨 koala, 🐩 poodle, 🐪 camel, 🐬 dolphin,
🐸 frog, 🐺 wolf, 🐼 panda, 🐽 pig nose, 🐾 paw prints, 🕊️ dove, 🦀 crab, 🦁 lion,
🦂 scorpion, 🦃 turkey, 🦄 unicorn, 🦅 eagle, 🦉 owl, 🦊 fox, 🦍 gorilla, 🦎 lizard,
🦐 shrimp, 🦑 squid, 🦓 zebra, 🦔 hedgehog, 🦕 sauropod, 🦙 llama, 🦚 peacock, 🦜 parrot,
🦝 raccoon, 🦞 lobster, 🦠 microbe, 🦢 swan, 🦤 dodo, 🦧 orangutan, 🦨 skunk, 🦭 seal,
🦴 bone, 🪸 coral, 🐹 hamster, 🐲 dragon head
"""
FOOD = """
🍄 mushroom, 🍅 tomato, 🍇 grapes, 🍈 melon, 🍉 watermelon, 🍊 orange, 🍋 lemon, 🍌 banana,
🍍 pineapple, 🍏 green apple, 🍑 peach, 🍒 cherries, 🍓 strawberry, 🍔 hamburger, 🍕 pizza,
🍖 meat, 🍗 drumstick, 🍘 rice cracker, 🍙 rice ball, 🍚 rice bowl, 🍛 curry, 🍜 noodles,
🍝 spaghetti, 🍞 bread, 🍟 french fries, 🍠 sweet potato, 🍡 dango, 🍢 oden, 🍣 sushi,
🍤 fried shrimp, 🍥 fish cake, 🍦 ice cream, 🍧 shaved ice, 🍨 sundae, 🍩 doughnut,
🍪 cookie, 🍫 chocolate, 🍭 lollipop, 🍮 custard, 🍯 honey, 🍰 cake, 🍱 bento box,
🍳 fried egg, 🍶 sake, 🍷 wine, 🍺 beer, 🍼 baby bottle, 🍽️ plate, 🍿 popcorn,
🎂 birthday cake, 🌭 hot dog, 🌮 taco, 🌯 burrito, 🌰 chestnut, 🌶️ chili pepper, 🌽 corn,
🥐 croissant, 🥑 avocado, 🥒 cucumber, 🥖 baguette, 🥗 salad, 🥘 paella, 🥙 pita, 🥝 kiwi,
🥞 pancakes, 🥠 fortune cookie, 🥡 takeout box, 🥣 cereal, 🥤 soda, 🥥 coconut,
🥦 broccoli, 🥧 pie, 🥨 pretzel, 🥩 steak, 🥪 sandwich, 🥫 canned food, 🥬 lettuce,
🥭 mango, 🥮 moon cake, 🥯 bagel, 🧀 cheese, 🧁 cupcake, 🧃 juice box, 🧆 falafel,
🧇 waffle, 🧈 butter, 🧊 ice cube, 🧋 bubble tea, 🫐 blueberries, 🫑 bell pepper, 🫒 olive,
🫓 flatbread, 🫔 tamale, 🫕 fondue, 🫘 beans, 🫙 jar, ☕ coffee, 🦪 oyster, 🥃 whiskey
"""
NATURE = """
🌲 pine tree, 🌳 tree, 🌸 cherry blossom, 🌹 rose, 🌺 hibiscus, 🌻 sunflower, 🌼 daisy,
💐 bouquet, 🥀 wilted flower, 🪴 potted plant, 🌈 rainbow, 🌊 wave, 🌋 volcano, 🌍 globe,
🌙 moon, 🌞 sun, ⭐ star, 🌠 shooting star, 🌪️ tornado, 🌧️ rain cloud, ⚡ lightning,
❄️ snowflake, ☃️ snowman, 🔥 fire, 💧 water drop, ☄️ comet, 🏔️ mountain, 🏝️ island,
🏜️ desert, 💎 diamond, 🌀 cyclone, 💥 explosion
"""
VEHICLES = """
🚀 rocket, 🚂 locomotive, 🚃 railway car, 🚄 bullet train, 🚇 metro, 🚌 bus, 🚑 ambulance,
🚒 fire engine, 🚓 police car, 🚕 taxi, 🚗 car, 🚙 van, 🚚 truck, 🚛 lorry, 🚜 tractor,
🚝 monorail, 🚡 cable car, 🚢 ship, 🛵 moped, 🏍️ motorcycle, ⛵ sailboat, ✈️ airplane,
🛩️ small plane, 🛰️ satellite, 🛺 rickshaw, 🛼 roller skate, 🪂 parachute,
🚦 traffic light, 🚧 road barrier, 🛑 stop sign, ⛽ gas pump, 🚏 bus stop, 🚨 siren,
🛟 life ring, ⛴️ ferry
"""
PLACES = """
🏠 house, 🏡 cottage, 🏢 office, 🏥 hospital, 🏦 bank, 🏨 hotel, 🏪 store, 🏫 school,
🏭 factory, 🏯 pagoda, 🏰 castle, 🏛️ temple, 🏟️ stadium, 🏕️ campsite, 🏖️ beach,
🏗️ crane, 🏚️ ruined house, ⛪ church, 🕌 mosque, 🕍 synagogue, 🕋 kaaba, 🗿 stone face,
⛲ fountain, 🎠 carousel, 🎡 ferris wheel, 🎢 roller coaster, 🎪 circus, 💒 chapel,
🛕 hindu temple, ⛩️ shrine, 🛖 hut, 🌉 bridge, 🗻 mount fuji, 🎑 moon grass
"""
TOOLS = """
🔩 bolt, 🪓 axe, ⚔️ swords, 🧰 toolbox, 🧲 magnet, 🔑 key, 🔒 padlock, 🔦 flashlight,
💡 light bulb, 🪔 oil lamp, 🏮 lantern, 🔬 microscope, 📡 dish antenna, 🧫 petri dish,
🧬 dna, 💊 pill, 🩺 stethoscope, 🪤 mouse trap, 🧨 firecracker, 🔫 water pistol,
🧭 compass, ⏰ alarm clock, ⏱️ stopwatch, ⌛ hourglass, ⌚ watch, 🕰️ mantel clock,
✂️ scissors, 📌 pushpin, 📐 set square, ✏️ pencil, ⚗️ alembic, ⛑️ helmet, 🔱 trident
"""
CLOTHES = """
👑 crown, 👒 sun hat, 🕶️ sunglasses, 👔 shirt, 👕 t-shirt, 👖 jeans, 👘 kimono, 👙 bikini,
👛 purse, 👜 handbag, 👠 high heel, 🎒 backpack, 🎓 graduation cap, 🎩 top hat, 🧥 coat,
🧦 socks, 🥼 lab coat, 🥽 goggles, 🥾 hiking boot, 🥿 flat shoe, 🩰 ballet shoes,
🩱 swimsuit, 🩲 briefs, 🩳 shorts, 🥻 sari, 🦺 safety vest, 💄 lipstick, 🪭 hand fan,
🧵 thread, 🧶 yarn, 💼 briefcase, 🧳 suitcase, 🩴 flip flop, 🎀 bow ribbon, 📿 beads
"""
MUSIC_AND_SPORT = """
🎷 saxophone, 🎸 guitar, 🎹 piano, 🥁 drum, 🪗 accordion, 🪘 long drum, 🎤 microphone,
📯 horn, 🔔 bell, 📻 radio, ⚽ soccer ball, 🏀 basketball, 🏈 football, ⚾ baseball,
🥎 softball, 🎾 tennis ball, 🏐 volleyball, 🎱 pool ball, 🥋 martial suit,
🥌 curling stone, 🎳 bowling, 🎯 dartboard, 🎿 skis, ⛸️ ice skate, 🏆 trophy, 🥅 goal net,
⛳ golf hole, 🤿 diving mask, 🪀 yo-yo, 🪁 kite, 🎲 die, 🧩 puzzle piece, 🕹️ joystick,
🎰 slot machine, 🎨 palette, 🎭 masks, 🔮 crystal ball, 🪅 pinata, 🪆 nesting doll,
🎁 gift, 🎉 party popper, 🎊 confetti ball, 🎏 carp streamer, 🎆 fireworks,
🎖️ military medal, 🏑 field hockey, 🏉 rugby ball
"""
HOUSEHOLD = """
🛋️ couch, 🚽 toilet, 🪞 mirror, 🪟 window, 🧺 basket, 🧻 toilet paper, 🧽 sponge,
🪣 bucket, 🖼️ picture frame, 🗞️ newspaper roll, 📰 newspaper, 📖 book, 📚 books,
📜 scroll, 📦 box, 📫 mailbox, 📮 postbox, ✉️ envelope, 📋 clipboard, 📅 calendar,
📁 folder, 🗄️ file cabinet, 📊 bar chart, 💰 money bag, 💵 banknote, 💳 credit card,
🎫 ticket, 📷 camera, 🎥 movie camera, 📺 television, 💻 laptop, 🖥️ monitor, 🖨️ printer,
🖱️ computer mouse, 📱 phone, ☎️ telephone, 📠 fax machine, 💾 floppy disk,
💿 compact disc, 📼 videotape, 🎬 clapper board, 🎞️ film strip, 🔊 loudspeaker,
📣 megaphone, 🧮 abacus, 🛎️ service bell, 🏧 cash machine, 🛗 elevator, 🗺️ map, 👻 ghost,
👽 alien, 🤖 robot, 💀 skull, 👁️ eye, 👂 ear, 👄 lips, 🦷 tooth, 🫀 heart organ,
❤️ red heart, 💩 poop, 🧱 brick wall, 🪧 placard, 🧿 blue amulet, 🪩 mirror ball
"""
GROUPS = (
    ANIMALS, FOOD, NATURE, VEHICLES, PLACES, TOOLS, CLOTHES, MUSIC_AND_SPORT, HOUSEHOLD,
)  # fmt: skip


def entries() -> list[tuple[str, str]]:
    """Read the tables above: a list of (characters, name) in their order."""
    pairs = [entry.split(maxsplit=1) for group in GROUPS for entry in group.split(",")]
    return [(mark, " ".join(name.split())) for mark, name in pairs]


def draw_cell(mark: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one thing, trimmed and fitted into a CELL x CELL RGBA image."""
    canvas = Image.new("RGBA", (300, 200))
    ImageDraw.Draw(canvas).text((40, 20), mark, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise SystemExit(f"the font draws nothing for {mark!r}: choose another drawing")
    drawing = canvas.crop(box)
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, (side // 2 - drawing.width // 2, side // 2 - drawing.height // 2))
    return square.resize((CELL, CELL), Image.Resampling.LANCZOS)


def build(font_path: Path, folder: Path) -> int:
    """Write objects.webp (row-major cells) and objects.json into a folder; returns the bytes."""
    things = entries()
    font = ImageFont.truetype(str(font_path), 109)
    rows = -(-len(things) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, (mark, _) in enumerate(things):
        row, column = divmod(index, COLUMNS)
        atlas.paste(draw_cell(mark, font), (column * CELL, row * CELL))
    packed = io.BytesIO()
    atlas.save(packed, format="WEBP", quality=QUALITY, method=6)
    table = {
        "licence": LICENCE,
        "cell": CELL,
        "columns": COLUMNS,
        "objects": [{"name": name, "character": mark} for mark, name in things],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("objects.webp", packed.getvalue()),
        ("objects.json", (json.dumps(table, ensure_ascii=False, indent=0) + "\n").encode()),
    ):
        (folder / f"{name}.part").write_bytes(content)
        os.replace(folder / f"{name}.part", folder / name)
    return packed.tell()


def main() -> None:
    """Read the arguments and build the atlas."""
    parser = argparse.ArgumentParser(description="Draw the objects of the synthetic worlds.")
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--out", type=Path, default=DATA)
    arguments = parser.parse_args()
    size = build(arguments.font, arguments.out)
    print(f"{len(entries())} objects, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
