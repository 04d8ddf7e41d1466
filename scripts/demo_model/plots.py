"""Story plots, first half. A template may hold slots `{name}` and choices `[one|two|]`; see grammar.py.

Hero: {name} {kind} {trait} {he} {him} {his}; friend: {fname} {fkind} {fhe} {fhim} {fhis}; stranger: {oname} {okind}
{ohe} {ohim} {ohis}. "a(n)" becomes "a" or "an".
"""

from scripts.demo_model.plot_type import Plot

LOST = Plot(
    "lost",
    {
        ("how", "found"): [
            ("a strong wind blew it away", "hanging on a branch"),
            ("it fell out of {his} pocket", "lying in the tall grass"),
            ("it slipped from {his} hand and rolled away", "under a pile of leaves"),
            ("a cheeky magpie flew off with it", "in the magpie's nest"),
            ("it was gone when {he} woke up", "behind a big stone"),
            ("{he} put it down and forgot where", "on top of an old wall"),
            ("it dropped into the water and floated off", "between two wet rocks"),
            ("a puppy ran off with it", "buried in the soft sand"),
        ],
    },
    (
        "{name} had a(n) {colour} {treasure}[ that {his} [grandmother|grandfather|mother|father] had given {him}|]. "
        "It was the thing {he} loved most[ in the world|].",
        "[Every day|Every morning] {name} [played with|polished|took care of] {his} {colour} {treasure}, because it "
        "was [very|so] [dear|precious] to {him}.",
    ),
    (
        "[One day|One windy day|One afternoon|But one morning], [near|not far from] {place}, {how}. "
        '["My {treasure}!"|"Oh no, my {treasure}!"] cried {name}. "[It is gone!|Where can it be?|I have lost it!]"',
        "Then one day something [sad|bad|terrible] happened. [Near|Close to] {place}, {how}, and the {treasure} was "
        "lost. {name} [began to cry|sat down and wept|felt very sad].",
    ),
    (
        "{He} looked [high and low|everywhere|all day long], but {he} could not find it. Then {he} met {oname} the "
        '{okind}. "Why are you so [sad|unhappy]?" asked {oname}. "I have lost my {colour} {treasure}," said {name}.',
        "{name} [asked everyone|searched and searched], but [nobody had seen it|it was nowhere to be seen]. At last "
        '{he} came to {oname}, a(n) {okind} with [kind|bright|wise] eyes. "Have you seen my {treasure}?" asked '
        "{name}.",
        '"Do not cry," said {fname}. "Let us ask {oname} the {okind}. {Ohe} [sees everything|knows every path]." So '
        "[the two friends|{name} and {fname}] went to find {oname}.",
    ),
    (
        '"[Do not worry|I can help you]," said {oname}. "I saw something {colour} [shining|this morning] near '
        '{place2}." They [went|ran|hurried] to {place2} together, and there was the {treasure}, {found}!',
        '{oname} thought for a moment. "[Let us|We should] look near {place2}," {ohe} said. They looked and looked, '
        'and [at last|suddenly] {oname} [called|shouted], "Here it is!" The {treasure} was {found}.',
    ),
    (
        '"Thank you, {oname}!" said {name}[, and {he} hugged {ohim}|]. [From that day on|After that], {name} [never '
        "let the {treasure} out of {his} sight|always kept the {treasure} safe|and {oname} were good friends].",
        '{name} jumped for joy. "How can I thank you?" {he} asked. "Just be my friend," said {oname}. [And so they '
        "became friends.|And that is what {name} did.]",
    ),
    (
        ("What did {name} lose?", "{name} lost {his} {colour} {treasure}."),
        ("Where was the {treasure}?", "The {treasure} was near {place2}, {found}."),
        ("Who helped {name}?", "{oname} the {okind} helped {name}."),
        ("Why was {name} sad?", "{name} was sad because {he} had lost {his} {colour} {treasure}."),
        ("How did the story end?", "{oname} helped {name} find the {treasure}, and {name} was happy again."),
    ),
    ("it is good to ask for help", "friends are worth more than treasure", "we should take care of the things we love"),
)

LEARN = Plot(
    "learn",
    {
        ("skill", "skilled", "trouble", "advice"): [
            (
                "fly a kite",
                "the kite flew high above the trees",
                "the kite kept falling into the bushes",
                "Run against the wind and let the string go slowly",
            ),
            (
                "swim",
                "{name} swam all the way across the water",
                "{he} sank like a stone every time",
                "Lie on the water and kick with your legs",
            ),
            (
                "bake a cake",
                "the cake was soft and sweet",
                "the cake always came out as hard as a brick",
                "Stir it slowly and wait until the oven is hot",
            ),
            (
                "sing",
                "{his} song was clear and sweet",
                "{his} voice squeaked like an old door",
                "Breathe deeply and sing from your heart",
            ),
            (
                "dance",
                "{name} danced as lightly as a leaf",
                "{he} always tripped over {his} own feet",
                "Close your eyes and listen to the music",
            ),
            (
                "play the flute",
                "the flute sang like a bird",
                "the flute only made a terrible noise",
                "Blow softly, as if you were cooling soup",
            ),
            (
                "climb the tall tree",
                "{name} sat on the very top branch",
                "{he} slipped down again and again",
                "Look up, not down, and take one branch at a time",
            ),
            (
                "skate on the ice",
                "{name} skated in big circles",
                "{he} fell down with every step",
                "Bend your knees and look straight ahead",
            ),
            (
                "ride a bicycle",
                "{name} rode all around the village",
                "the bicycle kept falling over",
                "Look far ahead and keep turning the wheels",
            ),
            (
                "read",
                "{name} read a whole book aloud",
                "the letters danced before {his} eyes",
                "Take one letter at a time and say it out loud",
            ),
            (
                "juggle three balls",
                "all three balls flew through the air",
                "the balls kept dropping on {his} head",
                "Begin with one ball, then two, and then three",
            ),
            (
                "grow a sunflower",
                "a tall sunflower smiled at the sun",
                "the little seeds never came up",
                "Water them a little every day and be patient",
            ),
        ],
    },
    (
        "More than anything, {name} wanted to {skill}. [Every night {he} dreamed of it.|{He} thought about it all "
        "day long.]",
        '{name} had one big wish. "[If only I could|I wish I could] {skill}," {he} often said to {fname}.',
    ),
    (
        '[One day|One bright morning] {name} went to {place} to try. But {trouble}. "[I will never learn it|I '
        'cannot do it|It is too hard]," {he} [sighed|said sadly].',
        "{He} tried [every day|again and again] near {place}, but {trouble}. [Some of the others laughed at {him}.|"
        "{name} felt like giving up.]",
    ),
    (
        'Just then, {oname} the {okind} came by. "[May I help you?|What is the matter?]" asked {oname}. "I want to '
        '{skill}, but I do not know how," [said|answered] {name}.',
        'An old {okind} named {oname} had been watching from {place2}. {Ohe} came closer and smiled. "[I once had '
        'the same trouble|I can show you how]," said {oname}.',
    ),
    (
        '"{advice}," said {oname}. {name} [listened carefully|nodded] and tried once more. [The first time it did '
        "not work, but {he} did not give up.|It was not easy, but {he} kept trying.|]",
        '"There is a secret," said {oname}. "{advice}." So {name} practised [for seven days|every morning|from '
        "sunrise to sunset], and {fname} [cheered for {him}|came along to watch].",
    ),
    (
        '[And then|At last|One day], {skilled}! "I did it! I did it!" [shouted|cried] {name}. {oname} [clapped|'
        "laughed with joy].",
        "[At last it happened:|And what do you think happened?] {skilled}. [Everyone came to look, and everyone "
        'clapped.|"Look at me!" called {name}, and {fname} cheered.]',
    ),
    (
        ("What did {name} want?", "{name} wanted to {skill}."),
        ("What was {name}'s wish?", "{name} wished to {skill}."),
        ("Who helped {name}?", "{oname} the {okind} helped {name}."),
        ("What did {oname} say?", '{oname} said, "{advice}."'),
        ("How did the story end?", "{name} learned to {skill}, and everyone was happy."),
    ),
    ("you should never give up", "practice makes us better every day", "every master was once a beginner"),
)

FEAR = Plot(
    "fear",
    {
        ("fear", "need", "deed"): [
            (
                "the dark",
                "{fname} was lost in the night and called for help",
                "took a lantern and walked into the night",
            ),
            ("deep water", "{fname} slipped and fell into the river", "jumped into the cold water"),
            ("high places", "{fname} was stuck at the top of a tall tree", "climbed up, branch by branch"),
            ("thunder", "{fname} was alone outside in a big storm", "ran out into the storm"),
            ("the old cave", "{fname} fell asleep in the old cave and did not come home", "walked into the deep cave"),
            ("bees", "{fname} got a foot stuck in a log beside the bees", "tiptoed past all the bees"),
            ("loud noises", "{fname} was trapped in the noisy mill", "ran straight to the roaring mill wheel"),
            (
                "the big dog at the gate",
                "{fname} was trapped behind the gate",
                "walked up to the big dog and said hello",
            ),
            ("crowds", "{fname} got lost among the people at the fair", "pushed through the whole crowd"),
            ("snow", "{fname} was stuck in the deep snow", "dug a path through the deep snow"),
        ],
    },
    (
        "But {name} had a secret. {He} was afraid of {fear}. [Whenever the others laughed about it, {he} felt very "
        "small.|{He} had never told anyone about it.]",
        "There was only one thing {name} did not like: {fear}. [Just thinking of it made {him} shake.|{His} knees "
        "always trembled when {he} thought of it.]",
    ),
    (
        "[One evening|One day|One stormy day], near {place}, {need}. [{oname} the {okind} came running.|A(n) "
        '{okind} named {oname} brought the news.] "[Come quickly|Help]!" cried {oname}. "{fname} needs you!"',
        'Then one day something happened [near|not far from] {place}: {need}. "Who will help {fname}?" asked '
        "{oname} the {okind}. [Nobody answered.|Everyone looked at the ground.]",
    ),
    (
        '{name}\'s heart [beat fast|was pounding]. "[I am afraid|I am so scared]," {he} whispered, "but {fname} is '
        'my friend."',
        '{name} was [very frightened|trembling]. "[What if something happens to me?|I cannot do it,]" {he} thought. '
        "But then {he} thought of {fname}[, all alone|].",
        '"You are afraid of {fear}," said {oname}. "[Stay here.|Let me go.]" But {name} shook {his} head. "I will '
        'go myself," {he} said.',
    ),
    (
        'So {he} took a deep breath and {deed}. "[Hold on|I am coming], {fname}!" {he} called. [Step by step|Little '
        "by little], {he} came closer, and at last {he} [reached {fhim}|found {fhim}] and [brought {fhim} home|led "
        "{fhim} to safety].",
        "{He} counted to three and {deed}. [It was not as bad as {he} had thought.|{He} was so busy helping that "
        "{he} forgot to be afraid.] Soon {fname} was safe[ and sound|].",
    ),
    (
        '"You saved me," said {fname}. "You are the bravest {kind} I know." {name} [blushed|smiled]. {He} was not '
        "afraid of {fear} any more.",
        '{fname} hugged {name}. "[Were you not scared?|I thought you were afraid of {fear}.]" {fhe} asked. "I was," '
        'said {name}, "but I love you more than I fear anything."',
    ),
    (
        ("What was {name} afraid of?", "{name} was afraid of {fear}."),
        ("Who needed help?", "{fname} the {fkind} needed help."),
        ("What did {name} do?", "{name} {deed} to save {fname}."),
        ("Who saved {fname}?", "{name} the {kind} saved {fname}."),
        ("How did the story end?", "{name} saved {fname} and was not afraid of {fear} any more."),
    ),
    (
        "being brave means helping even when you are scared",
        "love is stronger than fear",
        "you are braver than you think",
    ),
)

QUARREL = Plot(
    "quarrel",
    {
        ("mishap", "fix"): [
            ("it broke in two", "glued it together again"),
            ("it fell into the mud", "washed it until it shone"),
            ("it flew over the fence", "climbed over and brought it back"),
            ("it rolled into a deep hole", "pulled it out with a long rope"),
            ("it fell into the water", "fished it out with a net"),
            ("a piece of it came off", "put the piece back with a drop of honey"),
            ("it got stuck in a tree", "stood on each other's shoulders to reach it"),
        ],
    },
    (
        '[One day|One sunny morning], {name} and {fname} found a(n) {colour} {treasure} near {place}. "[It is mine|'
        'I saw it first]!" said {name}. "No, [it is mine|I saw it first]!" said {fname}.',
        "{name} and {fname} [played together every day|were always together]. But one day they [saw|found] a(n) "
        "{colour} {treasure} near {place}, and both of them wanted it.",
    ),
    (
        'They pulled and pulled until {mishap}. [Then they were both very angry.|"Now look what you have done!" '
        "they both shouted.] {name} went home, and {fname} went home too.",
        '{name} pulled on one side and {fname} pulled on the other. Then {mishap}! "I will never play with you '
        'again," said {fname}, and {fhe} [ran|walked] away.',
    ),
    (
        "But [it is no fun to play alone|that night {name} could not sleep]. {He} missed {his} friend. {oname} the "
        '{okind} saw {him} and asked, "[Which is better|What do you like more], a {treasure} or a friend?"',
        "For two days they did not [talk|play together]. {name} was lonely. {fname} was lonely too. Then {oname} "
        'the {okind} [came and said|said to them both], "[A thing can be shared, but a friend cannot be replaced|'
        'Two friends are better than one {treasure}]."',
    ),
    (
        '{name} went to {fname}\'s door. "I am sorry," {he} said. "I am sorry too," said {fname}. Together they '
        "went back to {place} and {fix}.",
        'So {name} picked some flowers for {fname}. "Can we be friends again?" {he} asked. "[Oh yes|Of course]," '
        "said {fname}. Then they took the {treasure} and {fix}.",
    ),
    (
        "After that, {name} had the {treasure} on one day and {fname} had it on the next. [And that was much more "
        "fun.|They never fought about it again.]",
        "[From then on|From that day on] they shared the {colour} {treasure}, and [they laughed about their silly "
        "fight|they were the best of friends].",
    ),
    (
        ("What did they find?", "They found a(n) {colour} {treasure} near {place}."),
        ("Who fought over the {treasure}?", "{name} and {fname} fought over the {treasure}."),
        ("What happened to the {treasure}?", "When they pulled, {mishap}."),
        ("Who gave them good advice?", "{oname} the {okind} gave them good advice."),
        ("How did the story end?", "{name} and {fname} said sorry and shared the {treasure}."),
    ),
    ("sharing makes everything better", "saying sorry is never too late", "a good friend is worth more than any thing"),
)

KINDNESS = Plot(
    "kindness",
    {
        ("plight", "help"): [
            ("caught in a thorn bush", "pulled out the thorns one by one"),
            ("trapped under a fallen branch", "lifted the branch with all {his} strength"),
            ("tangled in a fishing net", "cut the net with a sharp stone"),
            ("shivering in the cold rain", "shared {his} warm blanket with {ohim}"),
            ("too hungry to walk", "gave {ohim} all of {his} lunch"),
            ("stuck in the deep mud", "pulled {ohim} out with a long stick"),
            ("limping on a sore foot", "wrapped the foot in soft leaves"),
            ("locked in a wooden box", "broke the lock with a stone"),
        ],
        ("danger", "rescue"): [
            ("{name} fell into a deep pit", "let down a long rope and pulled {him} out"),
            ("{name} lost {his} way in the fog", "called {his} name and led {him} home"),
            ("{name}'s little boat was sinking", "swam out and pushed the boat to the shore"),
            ("a hungry wolf jumped out in front of {name}", "made such a noise that the wolf ran away"),
            ("{name} was caught in a snowstorm", "kept {him} warm until the snow stopped"),
            ("{name} was stuck on a high rock", "built a ladder of branches for {him}"),
            ("the bridge broke under {name}'s feet", "caught {him} just in time"),
        ],
    },
    (
        "[One day|One morning|One cold day], {name} was walking to {place} when {he} heard a [small|weak] voice. It "
        'was {oname}, a(n) {okind}, {plight}. "[Please help me|Help]!" [said|cried] {oname}.',
        "On the way to {place}, {name} [saw|met] a(n) {okind} who was {plight}. It was {oname}. [Many "
        'others had walked past without stopping.|"Nobody will stop for me," said {oname}.]',
    ),
    (
        '{name} did not [wait|think twice]. {He} {help}. "[Thank you|You are very kind]," said {oname}. "One day I '
        'will help you too."',
        '"Do not be afraid," said {name}, and {he} {help}. "[I will never forget this|I will not forget you]," said '
        "{oname}.",
    ),
    (
        "[Many days went by.|Spring came, and then summer.|The weeks went by.] Then, near {place2}, {danger}. "
        '"Help! Help!" {he} cried, but {fname} was [far away|at home] and [nobody|no one] heard.',
        '{name} soon forgot about it. But [one day|one evening], not far from {place2}, {danger}. "[What shall I do '
        'now|Is anybody there]?" {he} [cried|called].',
    ),
    (
        "[Somebody did hear.|But somebody was near.] It was {oname}! {Ohe} came [at once|as fast as {ohe} could] "
        "and {rescue}.",
        'Then {he} heard a voice that {he} knew. "[You helped me once|I have not forgotten you]," said {oname} the '
        "{okind}, and {ohe} {rescue}.",
    ),
    (
        '"Thank you, {oname}," said {name}. "[You saved my life|You came back to help me]." "[You helped me first|'
        'Now we are even]," said {oname} [with a smile|and laughed].',
        "That evening {name}, {fname} and {oname} [ate {food} together|sat by the fire and ate {food}], and [they "
        "told stories until the stars came out|they were friends for ever].",
    ),
    (
        ("Who did {name} help?", "{name} helped {oname} the {okind}."),
        ("How did {name} help {oname}?", "{oname} was {plight}, and {name} {help}."),
        ("Who saved {name}?", "{oname} the {okind} saved {name}."),
        ("What happened near {place2}?", "Near {place2}, {danger}."),
        ("How did the story end?", "{oname} saved {name}, because {name} had been kind."),
    ),
    ("kindness always comes back", "no one is too small to help", "a good deed is never forgotten"),
)

FIRST_PLOTS = (LOST, LEARN, FEAR, QUARREL, KINDNESS)
