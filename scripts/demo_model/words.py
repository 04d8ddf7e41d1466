"""Word lists of the story grammar: who, where, what. Plain data."""


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.replace("\n", " ").split("|")]


SHE = _words("""
Mia Lily Nora Ella Rosa Ada Zoe Luna Clara Hazel Ruby Ivy Daisy Willow Poppy Anna Maya Tilly Nina Bella Emma Olive
Stella Penny Molly Greta Wendy Lucy Flora Juno Pearl Maple Dora Elsie Fern Mina Nelly Sofia Tara Kitty Amber Bonnie
Cora Edith Freya Gwen Hanna Isla Jenny Lola
""")

HE = _words("""
Milo Tom Ben Leo Max Finn Oscar Theo Hugo Otto Felix Jack Sam Toby Noah Oliver Pip Rufus Barney Charlie Daniel
Eddie Freddy George Henry Igor Jasper Kip Louie Monty Ned Oleg Percy Quinn Robin Sandy Teddy Ugo Victor Walter Arlo
Bruno Caspar Dusty Emil Flint Gus Harvey Ivan Timo
""")
ANIMALS = _words("""
rabbit mouse hedgehog squirrel bear duck frog turtle kitten puppy owl beaver badger mole deer goat pony lamb otter
penguin elephant monkey lion sparrow robin goose pig donkey raccoon hamster koala panda camel snail bee butterfly
lizard parrot swan calf tiger dog cat fox wolf cow horse sheep snake whale fish zebra giraffe crocodile kangaroo
dinosaur snowman spider crab
""")
PEOPLE = _words("""
baker shepherd tailor gardener miller sailor clockmaker painter knight wizard farmer fisher potter carpenter cook
shoemaker dragon robot giant elf dwarf pirate teacher doctor ghost
""")
SHE_ONLY = ["girl", "princess", "queen", "fairy", "witch", "mermaid"]
HE_ONLY = ["boy", "prince", "king", "troll"]
TRAITS = _words("""
little brave shy clever curious kind cheerful lazy quiet gentle tiny young old clumsy proud patient honest careful
lonely merry sleepy hungry stubborn playful friendly dreamy wise silly busy polite
""")
COLOURS = _words("""
red blue green golden silver white black brown yellow purple grey pink
""")

HOMES = _phrases("""
in a small house by the river | in a cosy cottage at the edge of the forest | under an old oak tree |
on a green hill | in a quiet village by the sea | in a tall tower made of stone | near a deep blue lake |
in a little hut in the mountains | beside a busy market | in a sunny meadow full of flowers | on a small island |
behind the old mill | in a warm cave | next to a field of golden wheat | in a garden full of roses |
at the end of a long winding road | in a tiny village in the valley | on a farm with a red barn |
close to the whispering woods | in a house with a round green door | inside a hollow log |
on the bank of a silver stream | in a town with a tall clock | near the snowy mountains |
in a little tent by the desert | under a wooden bridge | in a castle with three towers | on top of a windy cliff |
in a boat on the canal | at the foot of a sleeping volcano
""")

PLACES = _phrases("""
the dark forest | the old mill | the river | the market | the hill | the beach | the cave | the wooden bridge |
the garden | the pond | the meadow | the castle | the barn | the orchard | the well | the library | the lighthouse
| the waterfall | the harbour | the stone tower | the village square | the wheat field | the mountain path |
the frozen lake | the rose bushes | the train station | the big rock | the hollow tree | the school | the bakery
""")

TREASURES = _phrases("""
key | kite | hat | scarf | drum | lantern | ball | ring | button | bell | book | boat | cup | ribbon | feather |
basket | watch | coin | shell | blanket | flute | map | umbrella | spoon | necklace | mitten | whistle | teapot |
pencil | marble | violin | compass | crown | mirror | paintbrush | telescope
""")

FOODS = _phrases("""
apple pie | honey cake | bread | cheese | strawberries | carrot soup | pancakes | blueberry jam | cookies |
pumpkin soup | cherries | plum cake | porridge | nuts | mushroom stew | pears | lemon tarts | roasted chestnuts
""")

HOBBIES = _phrases("""
collecting shiny stones | singing old songs | painting pictures | dancing in the rain | reading books |
counting the stars | climbing trees | baking bread | telling jokes | watching the clouds | growing flowers |
making paper boats | playing the drum | picking berries | building little houses | swimming in the pond |
looking for shells | writing letters | chasing butterflies | listening to the wind | whistling in the morning |
drawing maps | sleeping in the sun | riding on the wind | fixing old clocks | skipping stones | knitting socks |
feeding the birds
""")

# The beginnings, middles and ends of invented names.
SYLLABLES = [
    _words("""
        Ba Be Bi Bo Da De Do Fa Fi Ga Go Ja Jo Ka Ki Ko La Le Lo Lu Ma Me Mo Na Ne No Pa Pe Po Ra Ri Ro Sa Se So Ta
        Te Ti To Va Ve Vi Wa Wi Ya Zi Zo Zu Al El Il Or Ul An En Ar Bri Cla Dra Fre Gri Ste Tra Zel Sha Chi Tho Mar
        Ber Kar Sam Ol Ing Hu He Cha Mi Pi Su Tu Nu Bu Xa Qui Glo Spo Wil Ede Um Is
    """),
    _words("""
        ba be bo da di do fa ga go ka ki la le li lo lu ma mi mo na ne ni no pa po ra re ri ro sa si ta ti to va vi za
        zo an el in ar ber mel
    """),
    _words("""
        n l r m x k t lin ra na la ko mi to do dor len bert ley zu da nie vin ron lis sha tta mir bo rid bel dy ry ny
        co rix gar via thy per
    """),
]
