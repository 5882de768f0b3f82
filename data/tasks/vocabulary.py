"""The words of make_grammar.py: made up for it, taken from no other set of minimal pairs."""

PEOPLE = """baker gardener farmer pilot teacher doctor painter singer driver lawyer plumber sailor tailor
barber porter miller jeweller librarian musician mechanic carpenter student neighbour tourist visitor guard
nurse dentist surgeon builder hunter shepherd weaver potter dancer banker butcher reporter sculptor
florist""".split()
MEN = """king uncle nephew grandfather prince monk husband brother son widower groom duke father boy man
gentleman schoolboy stepson grandson bachelor""".split()
WOMEN = """queen aunt niece grandmother princess nun wife sister daughter widow bride duchess mother girl
woman lady schoolgirl stepdaughter granddaughter waitress""".split()
NAMES = """Anna Peter Clara Thomas Maria David Helen Robert Laura Simon Julia Martin Alice George Emma Oliver
Nina Walter Ruth Victor""".split()
THINGS = """lamp chair clock basket bottle carpet mirror blanket ladder hammer kettle pillow bucket candle
drum guitar jacket ribbon saddle teapot""".split()
DESCRIPTIONS = (
    "old new beautiful strange unusual wonderful ugly famous dirty interesting lovely impressive".split()
)
MOODS = """tired happy hungry angry polite nervous busy late thirsty lonely cheerful careful proud ready
quiet""".split()
PLACES = [
    "in the village",
    "in the kitchen",
    "near the harbour",
    "behind the church",
    "at the station",
    "beside the river",
    "in the garden",
    "outside the school",
    "near the market",
    "in the old tower",
    "across the street",
    "by the lake",
]
PAST = [
    "yesterday",
    "last week",
    "last night",
    "last summer",
    "last month",
    "the day before yesterday",
    "last Friday",
]
FUTURE = [
    "tomorrow",
    "next week",
    "tomorrow night",
    "next summer",
    "next month",
    "the day after tomorrow",
    "next Friday",
]

# What people do, and to what: base form, past, participle, gerund, objects.
DEEDS = [
    ("repair", "repaired", "repaired", "repairing", ["fence", "clock", "roof", "bicycle", "radio", "engine"]),
    ("paint", "painted", "painted", "painting", ["wall", "door", "boat", "gate", "bridge", "barn"]),
    (
        "carry",
        "carried",
        "carried",
        "carrying",
        ["basket", "suitcase", "ladder", "box", "bucket", "mattress"],
    ),
    ("clean", "cleaned", "cleaned", "cleaning", ["window", "oven", "stable", "floor", "carpet", "statue"]),
    ("open", "opened", "opened", "opening", ["drawer", "parcel", "gate", "bottle", "envelope", "cupboard"]),
    ("buy", "bought", "bought", "buying", ["lamp", "ticket", "piano", "horse", "jacket", "house"]),
    ("sell", "sold", "sold", "selling", ["carpet", "cottage", "wagon", "necklace", "guitar", "farm"]),
    ("build", "built", "built", "building", ["wall", "cabin", "boat", "tower", "shed", "bridge"]),
    ("find", "found", "found", "finding", ["key", "coin", "wallet", "map", "ring", "diary"]),
    (
        "borrow",
        "borrowed",
        "borrowed",
        "borrowing",
        ["umbrella", "hammer", "dictionary", "tent", "car", "camera"],
    ),
    (
        "bring",
        "brought",
        "brought",
        "bringing",
        ["cake", "blanket", "present", "lantern", "newspaper", "kettle"],
    ),
    (
        "visit",
        "visited",
        "visited",
        "visiting",
        ["museum", "castle", "island", "factory", "school", "market"],
    ),
]
THIRD = {"carry": "carries"}
# Verbs whose participle differs from their past: past, participle, objects.
IRREGULAR = [
    ("wrote", "written", ["letter", "poem", "report", "song"]),
    ("ate", "eaten", ["apple", "soup", "sandwich", "cake"]),
    ("broke", "broken", ["window", "vase", "chair", "record"]),
    ("stole", "stolen", ["painting", "horse", "wallet", "bicycle"]),
    ("took", "taken", ["key", "photograph", "money", "parcel"]),
    ("chose", "chosen", ["colour", "present", "hat", "book"]),
    ("drove", "driven", ["lorry", "tractor", "bus", "taxi"]),
    ("tore", "torn", ["page", "shirt", "ticket", "contract"]),
    ("wore", "worn", ["coat", "uniform", "necklace", "mask"]),
    ("drew", "drawn", ["map", "circle", "portrait", "plan"]),
    ("threw", "thrown", ["ball", "stone", "plate", "spear"]),
    ("saw", "seen", ["comet", "film", "fox", "accident"]),
    ("rode", "ridden", ["pony", "camel", "motorcycle", "elephant"]),
    ("shook", "shaken", ["bottle", "tree", "blanket", "rug"]),
]
# A thing, the words that join it to another thing, and the other thing.
JOINED = [
    ("key", "to the", "cabinet"),
    ("label", "on the", "bottle"),
    ("door", "of the", "shed"),
    ("picture", "of the", "castle"),
    ("handle", "of the", "drawer"),
    ("book", "about the", "mountain"),
    ("path", "to the", "farm"),
    ("lid", "of the", "jar"),
    ("wheel", "of the", "cart"),
    ("letter", "from the", "lawyer"),
    ("button", "on the", "coat"),
    ("lamp", "beside the", "bed"),
    ("sign", "near the", "bridge"),
    ("poster", "behind the", "counter"),
    ("roof", "of the", "barn"),
    ("strap", "of the", "bag"),
    ("map", "of the", "island"),
    ("story", "about the", "pirate"),
    ("gift", "for the", "nurse"),
    ("bowl", "under the", "table"),
    ("window", "of the", "train"),
    ("statue", "of the", "saint"),
]
DOINGS = ["sing", "work", "swim", "sleep", "wait", "live", "laugh", "smile", "run", "walk", "dance", "play"]
MASS = """milk flour rice furniture luggage advice sand snow traffic homework music bread butter water money
information equipment soup honey patience""".split()
VOWEL = """apple orange onion umbrella engine owl elephant insect island oven axe anchor envelope eagle egg
orchard uncle octopus""".split()
CONSONANT = """banana potato ticket motor falcon tiger spider river kettle knife rope parcel hawk biscuit
uniform university garden nephew""".split()
VOWEL_ADJECTIVES = "old orange ugly expensive interesting unusual elegant enormous antique".split()
CONSONANT_ADJECTIVES = "new green pretty cheap heavy useful modern unique white".split()
SHORT = [
    ("bright", "brighter"),
    ("old", "older"),
    ("small", "smaller"),
    ("heavy", "heavier"),
    ("cheap", "cheaper"),
    ("strong", "stronger"),
    ("long", "longer"),
    ("tall", "taller"),
    ("clean", "cleaner"),
    ("light", "lighter"),
]
LONG = ["expensive", "beautiful", "comfortable", "useful", "dangerous", "unusual", "popular", "difficult"]
SELF = """blamed defended introduced surprised praised hurt dressed warmed taught excused protected described
criticised encouraged hid""".split()
THANKS = "thanked helped met visited followed admired invited greeted trusted phoned".split()
CASES = [("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")]
BEFORE = [
    "waited for",
    "looked at",
    "talked to",
    "laughed at",
    "danced with",
    "listened to",
    "ran after",
    "relied on",
]
GERUND = ["enjoys", "avoids", "postponed", "considered", "denied", "admitted", "keeps", "mentioned", "risked"]
INFINITIVE = ["wants", "decided", "hopes", "refused", "promised", "agreed", "pretended", "wishes"]
# A verb that takes an object, one that takes none, objects.
OBJECTS = [
    ("visited", "arrived", ["museum", "castle", "island", "harbour"]),
    ("reached", "went", ["station", "summit", "border", "village"]),
    ("entered", "came", ["kitchen", "tunnel", "theatre", "forest"]),
    ("watched", "looked", ["parade", "film", "sunset", "game"]),
    ("discussed", "chatted", ["problem", "plan", "weather", "election"]),
    ("mentioned", "commented", ["accident", "letter", "price", "storm"]),
    ("answered", "replied", ["question", "letter", "teacher", "email"]),
    ("heard", "listened", ["song", "noise", "radio", "speech"]),
    ("admired", "smiled", ["painting", "view", "dress", "statue"]),
    ("enjoyed", "laughed", ["joke", "dinner", "concert", "journey"]),
    ("trusted", "relied", ["guide", "doctor", "map", "government"]),
    ("joined", "belonged", ["club", "army", "choir", "party"]),
]
TRANSITIVE = "bought found carried repaired owned needed brought fetched damaged destroyed received".split()
KNOWING = ["knows", "remembers", "forgot", "guessed", "noticed", "explained", "told us", "revealed"]
STANDING = ["stands", "lies", "stood", "lay"]
