"""Story plots, second half (slots as in plots.py)."""

from scripts.demo_model.plot_type import Plot

TRICK = Plot(
    "trick",
    {
        ("villain",): [
            ("fox",),
            ("wolf",),
            ("crow",),
            ("weasel",),
            ("cat",),
            ("goblin",),
            ("rat",),
            ("ogre",),
            ("pirate",),
            ("snake",),
        ],
        ("trick", "result"): [
            ("said that the {food} was full of hot pepper", "sneezed at the very thought of it and ran off"),
            (
                "pointed at the moon in the water and said it was a big round cheese",
                "jumped in and got wet from head to toe",
            ),
            ("asked the {villain} to dance first", "danced and danced until the sun came up and everyone was awake"),
            ("hid behind a tree and roared like a lion", "ran away without looking back"),
            ("put a heavy stone into the basket instead", "carried the stone all the way up the mountain"),
            (
                "asked the {villain} to close both eyes and count to a hundred",
                "was still counting when everyone was safely home",
            ),
            ("put on a long white sheet and moaned like a ghost", "shook with fear and never came back"),
            ("said that a much bigger {villain} lived in the well", "looked into the well, saw a face and ran away"),
            ("rubbed the road with soap", "slipped and rolled all the way down the hill"),
            ("offered the {villain} a very sticky toffee", "could not open that big mouth for three days"),
        ],
    },
    (
        "[One day|One morning], {name} made some {food} for {fname}. {He} put it into a basket and set out for "
        "{place}.",
        "{name} was famous for {his} {food}. Everyone near {place} loved it[, and nobody loved it more than {fname}|].",
    ),
    (
        'But a sly {villain} [was hiding|was waiting] behind a tree. "[Give me the {food}|I smell {food}]!" '
        '[growled|hissed] the {villain}. "[Give it to me|Hand it over], or I will eat you too!"',
        'Now there was a mean {villain} who lived near {place2}. The {villain} wanted all the {food}. "[Tonight I '
        'will take it all|It will all be mine]," said the {villain}.',
    ),
    (
        "{name} was afraid, but {he} thought quickly. {oname} the {okind} [was watching from above|sat in a tree "
        'nearby] and whispered, "[Be clever|Use your head], {name}."',
        '{oname} the {okind} [heard it and|] ran to warn {name}. "The {villain} is coming!" {ohe} said. "[What '
        'shall we do|Are you not afraid]?" {name} smiled. "I have a plan."',
    ),
    (
        "So {name} {trick}. The {villain} believed it, and {result}!",
        "When the {villain} came, {name} {trick}. And the [greedy|silly] {villain} {result}.",
    ),
    (
        "{name} and {oname} laughed until their bellies hurt. Then they ate the {food} together with {fname}. [It "
        "had never tasted so good.|]",
        "The {villain} never [troubled|bothered] them again. {name}, {fname} and {oname} [had a feast|shared the "
        "{food}], and it was [very good|delicious].",
    ),
    (
        ("Who wanted the {food}?", "The {villain} wanted the {food}."),
        ("How did {name} trick the {villain}?", "{name} {trick}."),
        ("What did {name} make?", "{name} made {food}."),
        ("Was the {villain} kind?", "No, the {villain} was mean and wanted to steal the {food}."),
        ("How did the story end?", "The {villain} was tricked, and the friends ate the {food} together."),
    ),
    (
        "a clever head is better than big teeth",
        "those who are greedy end up with nothing",
        "it pays to stay calm and think",
    ),
)

PARTY = Plot(
    "party",
    {
        ("gift", "missing", "price"): [
            ("a honey cake", "honey", "sing a song for the bees"),
            ("a warm scarf", "wool", "comb the old sheep"),
            ("a painting", "blue paint", "sweep the painter's floor"),
            ("a paper lantern", "red paper", "carry water for the shopkeeper"),
            ("a strawberry tart", "strawberries", "pull the weeds in the garden"),
            ("a wooden boat", "a straight piece of wood", "plant two new trees"),
            ("a crown of flowers", "white roses", "water the rose bushes"),
            ("a drum", "a strong string", "tell a funny story"),
            ("a pot of soup", "a big pumpkin", "chase the mice out of the barn"),
            ("a music box", "a tiny golden spring", "wind up all the clocks"),
            ("a soft pillow", "feathers", "clean out the nest"),
        ],
    },
    (
        "Soon it would be {fname}'s birthday, and {name} wanted to make {gift} for {fhim}. [It had to be a "
        'surprise.|"{Fhe} will be so happy," {he} thought.]',
        '"Tomorrow is {fname}\'s birthday," thought {name}. "I will make {gift}!" [{He} could hardly wait.|{He} '
        "began at once.]",
    ),
    (
        "But there was a problem. {name} had no {missing_bare}. {He} looked in every [cupboard|corner], but there "
        "was none[ at all|].",
        'Everything was ready, but one thing was missing: {missing}. "[What shall I do now|Where can I find that]?" '
        "{name} asked {himself}.",
    ),
    (
        'So {he} walked to {place}, where {oname} the {okind} lived. "Dear {oname}, [may I have|could you give me] '
        '{missing}?" {he} asked. "Yes," said {oname}, "but first you must {price}."',
        'Near {place} {he} met {oname} the {okind}. "I know where to get {missing}," said {oname}. "But [nothing is '
        'free|you must earn it]. You must {price}."',
    ),
    (
        "{name} worked hard [all morning|until noon]. When the work was done, {oname} [kept {ohis} word|smiled] and "
        "gave {him} {missing}. {name} ran home and finished {gift_the} just in time.",
        '"[That is fair|I will gladly do it]," said {name}, and {he} did it with a smile. {oname} was so pleased '
        "that {ohe} gave {him} {missing} and helped {him} to finish {gift_the}.",
    ),
    (
        '[The next day|On the birthday], {fname} [opened {fhis} eyes wide|could not believe it]. "You made {gift} '
        'for me?" {fhe} cried. "[It is the best gift of all|I have never had such a fine gift]!"',
        "All the friends came to the party near {place2}, and {oname} came too. {fname} loved {gift_the}. They "
        "[sang and danced|ate and laughed] until the moon came up.",
    ),
    (
        ("Whose birthday was it?", "It was {fname}'s birthday."),
        ("What did {name} make?", "{name} made {gift} for {fname}."),
        ("What was missing?", "{name} needed {missing}."),
        ("What did {name} have to do?", "{name} had to {price}."),
        ("How did the story end?", "{name} gave {gift} to {fname}, and {fname} was very happy."),
    ),
    ("the best gifts are made with love", "good things take a little work", "giving makes us as happy as getting"),
)

MYSTERY = Plot(
    "mystery",
    {
        ("clue", "secret", "solution"): [
            ("a strange light", "playing with a broken lantern", "they mended the lantern"),
            ("a soft crying sound", "crying, because nobody came to visit", "they promised to visit every week"),
            ("very big footprints", "walking in boots that were much too big", "they found smaller boots"),
            ("a loud bang in the night", "building a secret swing", "they all took turns on the swing"),
            ("sweet music", "practising the violin in secret", "they held a concert for everyone"),
            ("a trail of crumbs", "hiding there without a home", "they built a little house"),
            ("a thin line of smoke", "cooking soup all alone", "they all ate the soup together"),
            ("a shadow with long ears", "trying on a funny hat", "they all made funny hats"),
            ("a whisper in the wind", "reading a story aloud", "they sat down to hear the end of it"),
            ("a pile of blue feathers", "making wings out of old feathers", "they tried the wings on the hill"),
            ("a knocking on the wall", "stuck behind a heavy door", "they pushed the door open together"),
        ],
    },
    (
        "[One night|One evening|One foggy morning], {name} noticed something odd near {place}. It was {clue}! "
        '"[What can that be|Who could it be]?" {he} [wondered|whispered].',
        'For three [days|nights] there had been {clue} near {place}. Nobody knew what it was. ["Maybe it is a '
        'monster," said some.|Some people said it was a ghost.]',
    ),
    (
        '"[Do not go there|It is too dangerous]," said {fname}. "It could be a [monster|ghost]." But {name} [wanted '
        "to know|was too curious to stay at home].",
        '{name} told {fname} about it. "[I am scared," said {fname}. "So am I|I do not like this," said {fname}. '
        '"Me neither]," said {name}, "but I want to know what it is."',
    ),
    (
        "So {name} and {fname} [tiptoed|crept] closer, hand in hand. They passed {place2}. They [looked|peeked] "
        "around the corner, and there was no monster at all.",
        "They waited until it was quiet, and then they followed {clue_the} past {place2}. {fname} held on tight to "
        "{name}. [Something moved!|A branch cracked!]",
    ),
    (
        'It was only {oname}, a(n) {okind}, {secret}! "[Please do not be angry|Oh, you found me]," said {oname}[ '
        'shyly|]. "We are not angry," said {name}. So {solution}.',
        'And whom did they see? {oname} the {okind}, {secret}! {name} and {fname} began to laugh. ["We thought you '
        'were a monster!" they said.|"So it was you all the time!" they said.] Then {solution}.',
    ),
    (
        "[After that|From that night on], {oname} was never alone again, and nobody was afraid of {place} any more.",
        "[When they told the others, everyone laughed.|The others could hardly believe it.] {oname} became their "
        "friend, and they often met near {place}.",
    ),
    (
        ("What did {name} notice?", "{name} noticed {clue} near {place}."),
        ("Was there a monster?", "No, it was only {oname} the {okind}."),
        ("Who was there?", "It was {oname} the {okind}, {secret}."),
        ("Who went with {name}?", "{fname} the {fkind} went with {name}."),
        ("How did the story end?", "They found {oname}, and {solution}."),
    ),
    (
        "things are often less scary when you look closely",
        "a stranger may be a friend you have not met",
        "it is good to be curious",
    ),
)

VILLAGE = Plot(
    "village",
    {
        ("woe", "quest", "cure"): [
            (
                "the rain had stopped, and all the wells were dry",
                "find water",
                "there was a hidden spring under the big stone",
            ),
            (
                "the snow would not melt, and it was always winter",
                "bring back spring",
                "the sun was asleep and only had to be woken with a song",
            ),
            (
                "the big clock had stopped, and nobody knew the time",
                "wake the clock",
                "a tiny nail was stuck between the wheels",
            ),
            (
                "a thick fog covered the land, and no one could see the path",
                "drive away the fog",
                "the fog was afraid of bells",
            ),
            ("the bees had gone, and there was no honey", "find the bees", "the bees only wanted more flowers"),
            (
                "the bridge was broken, and nobody could cross the river",
                "mend the bridge",
                "many small stones make one strong bridge",
            ),
            (
                "the apple trees would not bloom",
                "save the trees",
                "the trees were thirsty and needed water from the lake",
            ),
            (
                "the lighthouse was dark, and the ships could not find the way",
                "light the lamp",
                "the lamp needed only a drop of oil",
            ),
            (
                "nobody could sleep, because the wind howled all night",
                "calm the wind",
                "the wind was lonely and wanted to play",
            ),
            (
                "all the songs were forgotten, and it was very quiet",
                "find the songs",
                "the songs were hiding in the old shells",
            ),
        ],
    },
    (
        "But that year there was trouble: {woe}. Everyone was worried.",
        "One year something terrible happened: {woe}. [The old people shook their heads.|Even the children stopped "
        "playing.]",
    ),
    (
        '["Somebody must {quest}," said|"Who will {quest}?" asked] {fname}[ sadly| softly|]. "I will try," said '
        "{name}. [Some people laughed at {him}.|{He} packed some {food} and set out at once.]",
        '"I will {quest}," said {name}. "I am coming with you," said {fname}. So they took some {food} and [set out|'
        "began to walk].",
    ),
    (
        "{He} walked past {place} and past {place2}, [for three days and three nights|over hills and through "
        'valleys], until {he} came to {oname}, a wise old {okind}. "[What are you looking for|Why have you come so '
        'far]?" asked {oname}.',
        "The way was long. Behind {place2} they met an old {okind} named {oname}, who was very hungry. {name} gave "
        '{ohim} some {food}. "[You have a good heart|You are kind]," said {oname}, "so I will tell you a secret."',
    ),
    (
        '{oname} [smiled|leaned closer]. "Listen," {ohe} said, "{cure}." {name} thanked {ohim} and ran [all the way|'
        "straight] home.",
        '"[Look closely|It is quite simple]," said {oname}, "{cure}." "[Of course|Why did we not think of that]!" '
        "cried {name}.",
    ),
    (
        "{name} told everyone what {he} had learned. They all worked together, and soon everything was well again. "
        '["Hurrah for {name}!" they shouted.|There was a big feast near {place}, and {name} sat in the best chair.]',
        "And it was true! Before the day was over, everything was well again. [The bells rang|Everyone sang], and "
        "{fname} [carried {name} on {fhis} shoulders|hugged {name} tightly].",
    ),
    (
        ("What was the trouble?", "The trouble was that {woe}."),
        ("What did {name} want to do?", "{name} wanted to {quest}."),
        ("Who told {name} the secret?", "{oname} the {okind} told {name} the secret."),
        ("What was the secret?", "The secret was that {cure}."),
        ("How did the story end?", "{name} found out how to {quest}, and everything was well again."),
    ),
    ("even a small person can do great things", "many hands make light work", "a kind heart finds the way"),
)

HONESTY = Plot(
    "honesty",
    {
        ("accident", "object_of", "mend"): [
            ("broke", "vase", "glued the pieces together"),
            ("tore", "picture book", "taped the page neatly"),
            ("spilled ink on", "letter", "wrote it again in beautiful letters"),
            ("dropped", "clock", "put all the little wheels back"),
            ("stepped on", "hat", "pushed it back into shape"),
            ("knocked over", "flower pot", "planted the flower again"),
            ("broke", "window", "put in a new pane of glass"),
            ("lost", "silver thimble", "found it under the carpet"),
            ("cracked", "blue plate", "painted flowers over the crack"),
            ("bent", "golden spoon", "hammered it straight"),
        ],
    },
    (
        "[One day|One rainy day], {name} was playing in the house of {oname} the {okind}, near {place}. {name} was "
        "[running|jumping] about, and [by accident|without meaning to] {he} {accident} {oname}'s {object_of}.",
        "{oname} the {okind} had a fine {object_of} and loved it very much. One day {name} [came to visit|was too "
        "wild], and {he} {accident} {oname}'s {object_of}. [Nobody had seen it.|It happened very quickly.]",
    ),
    (
        '"Oh no," [thought|whispered] {name}. {He} [hid behind the curtain|ran away] and said nothing. When {oname} '
        'came home and saw it, {ohe} [was very sad|cried]. "Who did this?" {ohe} asked.',
        '{name} was so frightened that {he} [ran to {place2}|hid under the table]. "Did you see who did it?" '
        '{oname} asked later. "[No, I did not|It was the wind]," said {name}[, and {his} face turned red|].',
    ),
    (
        'That night {name} could not [eat|sleep]. {His} tummy hurt, and {he} told {fname} everything. "[Tell the '
        'truth|You must tell {oname}]," said {fname}. "[Then you will feel better|I will come with you]."',
        '{name} felt worse and worse. Not even {hobby} made {him} happy. "What is wrong?" asked {fname}. {name} '
        'told {fhim} the whole story. "[Be brave and tell the truth|A lie is heavy to carry]," said {fname}.',
    ),
    (
        'The next morning, {name} went to {oname}. "It was me," {he} said in a small voice. "I {accident} your '
        '{object_of}. I am [so|very] sorry."',
        'So {name} took a deep breath and knocked on {oname}\'s door. "I must tell you something," {he} said. "I '
        '{accident} your {object_of}. [Please forgive me|I am sorry that I lied]."',
    ),
    (
        '{oname} looked at {him} for a long time. Then {ohe} smiled. "Thank you for telling me," {ohe} said. '
        "Together they {mend}[, and it was almost as good as new|].",
        '"[I am glad that you told me|It is only a {object_of}]," said {oname}, and {ohe} hugged {name}. Then the '
        "three of them {mend}. {name} felt as light as a feather.",
    ),
    (
        ("What did {name} do?", "{name} {accident} {oname}'s {object_of}."),
        ("Whose {object_of} was it?", "It was {oname}'s {object_of}."),
        ("Who told {name} to tell the truth?", "{fname} the {fkind} told {name} to tell the truth."),
        ("Did {name} tell the truth?", "Yes, in the end {name} told the truth."),
        ("How did the story end?", "{name} told the truth, and {oname} forgave {him}."),
    ),
    (
        "the truth makes the heart light",
        "honesty is always best",
        "everyone makes mistakes, but brave people say sorry",
    ),
)

SECOND_PLOTS = (TRICK, PARTY, MYSTERY, VILLAGE, HONESTY)
