"""Our own word lists, from which every retrieval task is written. Plain ASCII, no list taken from elsewhere."""

from __future__ import annotations

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    """
    acorn anchor anvil apple apron arrow atlas badge barge barley barrel basin basket beacon bell bench
    berry bishop blanket bolt bonnet book boot bottle boulder bowl bramble branch brick bridge broom
    brush bucket buckle bugle button cabin cable camel candle canoe canvas cape carpet carrot cart
    castle cedar cellar chain chalk chapel cherry chest chimney cider cliff cloak clock clover coal
    cobble comet compass copper coral cork cotton cradle crane crate creek cricket crown crystal cup
    curtain dagger daisy desk dock donkey door dragon drawer drum eagle easel elbow ember engine falcon
    feather fence fern ferry fiddle field flag flask flint flute forest forge fossil fountain fox garden
    garlic gate glacier glove goblet goose granite grape gravel grove guitar hammer hammock harbor harp
    hatch hazel hedge helmet heron hinge honey hook horn inkwell iron island ivory jacket jar jewel
    jungle kettle key kite kitten knot ladder lagoon lamp lantern lark lattice lemon lever lily linen
    lizard lobster locket loom lumber lute magnet mango map maple marble market mast meadow melon mill
    mirror mitten moat mortar moss mountain mug mural mushroom napkin needle nest nickel notebook oak
    oar oasis olive onion orchard otter oven owl oyster paddle palace parcel parrot pasture peach pearl
    pebble pencil pepper piano pickle pigeon pillow pine pipe pitcher planet plaza plum pocket pond
    poppy porch potato prairie prism pulley pumpkin puppet quarry quill quilt rabbit raft rail rake
    raven reed ribbon river robin rocket rope rudder saddle saffron sail salmon sandal satchel saucer
    scarf school seal shelf shell shield shovel silver skillet sled slipper sparrow spear spice spindle
    spoon spruce stable stamp statue stone stove stream sugar swan table tavern teapot temple thimble
    thistle thread timber tower trumpet tulip tunnel turnip turtle umbrella valley vase velvet village
    vine violin wagon walnut walrus wharf wheat wheel whistle willow window winter wolf wool wren yarrow
    zebra zinc
    """
)

ADJECTIVES = _words(
    """
    ample ancient austere azure bitter blue bold brave brief bright brisk broad bronze busy calm careful
    clean clever cold common crisp curious curly damp dark deep dense distant double dry dull dusty
    eager early empty even faint fair famous fast fierce fine firm flat fond formal fresh frosty gentle
    giant glad golden grand gray great green grim happy hardy harsh hasty heavy hollow honest humble
    hungry idle inner jolly keen kind large late lazy light little lively local lonely long loose loud
    loyal lucky mellow merry mighty mild misty modest muddy narrow neat new noble noisy odd old open
    orange outer pale patient perfect plain polite proud purple quaint quick quiet rapid rare red remote
    rich ripe rough round royal rugged rural rusty sandy scarlet secret shady sharp shiny short shy
    silent simple sleepy slender slow small smooth snowy soft solid sour spare spotted square steady
    steep stern still stout strange strict strong sturdy sunny swift tall tame tender thick thin tidy
    tiny tough true upper vast vivid warm weary wet white wide wild wise wooden yellow young
    """
)

VERBS = _words(
    """
    admired borrowed bought broke brought built buried carried caught chose cleaned copied counted
    covered delivered drew dropped examined exchanged feared fetched filled finished followed forgot
    found gathered guarded held hid inspected kept lifted loaded lost made measured mended missed moved
    noticed opened ordered painted passed placed praised pushed raised reached remembered repaired
    restored returned saved sketched sold stored studied took traded used visited washed watched weighed
    wrapped
    """
)

PLACES = _words(
    """
    Ashford Birkdale Camber Dunmore Eastbury Farleigh Glenhope Harwick Ivybridge Jarrow Kelso Larkhill
    Merrow Northam Oakley Penrose Quarrington Redcliff Selwick Thornby Ulverton Vickerage Westmoor
    Yarnfield Amberley Brightsea Calloway Drayton Elmstead Foxcombe Greywell Hollin Inverlea Kirkholm
    Longmere Marlowe Netherby Otterford Pellworth Ravensea Stonebury Tillham Upwell Wendover
    """
)

NAMES = _words(
    """
    Ada Agnes Albert Alma Amos Anna Arne Astrid Aldo Bea Bertha Boris Bruno Cara Carl Celia Clara Cyril
    Dora Edgar Edith Elias Ella Elsa Emil Enid Erik Esther Ezra Fay Felix Flora Frida Gerda Gilbert Greta
    Hanna Harald Hedda Henry Hilda Hugo Ida Igor Ines Irma Ivan Jonas Judith Julia Karin Kurt Laura Lena
    Leo Lina Lothar Lucy Mabel Magda Marta Max Milo Mina Nadia Ned Nora Olga Olive Oscar Otto Paula Pia
    Quentin Ralph Rhoda Rita Roland Rosa Rufus Ruth Selma Signe Simon Stella Sven Thea Theo Tilda Tobias
    Ulla Ursula Vera Victor Walda Wanda Wilma Xenia Yvonne Zelda
    """
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentence(rng: random.Random) -> str:
    """A plain sentence about nothing: `The quiet miller painted the red gate near Selwick.` has this shape."""
    first, second = rng.sample(NOUNS, 2)
    verb, place = rng.choice(VERBS), rng.choice(PLACES)
    shape = rng.randrange(4)
    if shape == 0:
        return f"The {first} with the {rng.choice(ADJECTIVES)} {second} stood near {place}."
    if shape == 1:
        return f"In {place} somebody {verb} the {rng.choice(ADJECTIVES)} {first} and the {second}."
    if shape == 2:
        return f"They {verb} the {rng.choice(ADJECTIVES)} {first} beside the {second}."
    return f"Nobody {verb} the {first}, because the {second} was {rng.choice(ADJECTIVES)}."


def short_sentence(rng: random.Random) -> str:
    """A sentence of some twenty-five letters, for windows where every byte is a token: `They kept the lantern.`"""
    if rng.randrange(2):
        return f"They {rng.choice(VERBS)} the {rng.choice(NOUNS)}."
    return f"The {rng.choice(NOUNS)} was {rng.choice(ADJECTIVES)}."


def key(rng: random.Random) -> str:
    """A two-word name such as `amber-lake`; there are more than fifty thousand."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def person(rng: random.Random) -> str:
    """A full name such as `Ada Walnut`; there are more than thirty thousand."""
    return f"{rng.choice(NAMES)} {rng.choice(NOUNS).title()}"


def number(rng: random.Random, digits: int) -> str:
    """A number of exactly `digits` digits, the first of them not zero."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def identifier(rng: random.Random, shape: tuple[int, ...]) -> str:
    """Hexadecimal groups of the given lengths: (8, 4, 4, 4, 12) looks like a UUID."""
    return "-".join("".join(rng.choice("0123456789abcdef") for _ in range(size)) for size in shape)


def coded_word(rng: random.Random, letters: int) -> str:
    """A meaningless word of that many letters."""
    return "".join(rng.choice(LETTERS) for _ in range(letters))
