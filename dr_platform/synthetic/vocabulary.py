"""The words that invented people have and write. All lists are our own.

What could reach somebody lies in ranges that belong to nobody: ``example.invalid`` (RFC 6761, 6.4),
555-0100 to 555-0199 (kept free for fiction by the North American Numbering Plan), social security
numbers with the group 00, which are never given out (nor as taxpayer numbers), towns and streets that
do not exist. ZIP codes have real first three digits, the seventeen sparse ones of 45 CFR
164.514(b)(2)(i)(B) among them, because masking must tell them apart.
"""

# ruff: noqa: E501, SIM905 - word lists read better in one line

GIVEN = (
    "Aurelia Bastian Calista Dorian Elowen Ferris Ginevra Halvard Isaura Jorund Katya Leandro Mireille Nereus Ottoline "
    "Percival Quilla Rafferty Sunniva Thaddeus Umberta Valerian Wilhelmina Xanthe Ysolde Zephyrin Ambrose Briseis "
    "Corentin Delphina Evander Fenella Gideon Hyacinth Ignatius Jocasta Kerensa Lazarus Melisande Noor"
).split()
FAMILY = (
    "Applegarth Brightwater Cinderford Dapplewood Eldermere Foxcroft Greyhaven Hollowell Inglewick Jessamyn Kestrelman "
    "Larkspur Mossgrove Nettlefield Oakhollow Pemberwick Quillfeather Ravensbourne Silverbrook Thistledown Umberfield "
    "Vetchling Willowbank Yarrowdale Zellwood Ashgrove Bellweather Copperfold Dunmorrow Fernsby Harrowgate Merriday"
).split()
STREETS = "Tansy Meadowlark Cobblestone Lanternfish Heather Bramblewood Saltmarsh Windmill Juniper Cloverleaf".split()
STREET_KINDS = ("Street", "Avenue", "Lane", "Road", "Court", "Drive")
PLACES = (
    ("Alderwick", "IL", "606"), ("Bellhaven", "NY", "112"), ("Cresthollow", "CA", "902"), ("Dunfallow", "TX", "770"),
    ("Eastmere", "WA", "981"), ("Foxholm", "VT", "059"), ("Greyridge", "WY", "821"), ("Hazelmoor", "NE", "692"),
    ("Ivybridge", "FL", "331"), ("Junction Falls", "NH", "036"), ("Kingsfold", "OH", "432"), ("Larchmont Hollow", "MN", "556"),
)  # fmt: skip
"""Town, state, first three digits of its ZIP code. 059, 821, 692, 036 and 556 are sparse."""
AREA_CODES = (217, 312, 415, 512, 602, 718, 802, 907)
CONCERNS = "sleep anxiety grief work family panic loneliness appetite routine medication school caring".split()
TITLES = (
    "Cannot sleep again", "After the funeral", "Work is too much", "Panic on the train", "Talking with my sister",
    "A better week", "Questions about my medication", "Evenings alone", "Before the exam", "My plan for mornings",
)  # fmt: skip

SAID = (
    "I lay awake until four again.", "My heart was racing before I even got up.", "Nothing I planned worked today.",
    "I tried the breathing exercise and it helped a little.", "My thoughts keep going in circles.",
    "I skipped dinner because I was not hungry.", "Work was loud and I hid in the kitchen for a while.",
    "I felt better after the walk.", "It is always worse on Sundays.", "I do not know how to tell them.",
    "The new tablets make me tired in the mornings.", "I have not seen anyone since Tuesday.",
    "Sometimes I just want everything to be quiet.", "I wrote three pages in my journal.", "I cried in the car.",
    "I keep thinking about what I should have said.", "The group was kinder than I expected.",
    "I am proud that I went at all.", "My hands were shaking the whole time.", "I slept six hours, which is good for me.",
    "The noise from upstairs does not stop.", "I cancelled on a friend again.", "I miss how it was before.",
    "Could we go through the plan once more?", "I set an alarm for the evening routine.", "It felt like falling.",
    "Today was almost normal.", "I am worried that it comes back.", "Eating together is the hardest part.",
    "I counted to ten and started again.", "There is a lot I have not told anyone.", "Thank you for asking.",
)  # fmt: skip
"""Sentences of patients that name nobody."""
ANSWERED = (
    "That sounds exhausting.", "Thank you for telling me.", "What was different on the days that went better?",
    "A steady time to get up often helps more than an early night.", "You could write the worry down and close the book.",
    "Let us look at one small step for tomorrow.", "Breathing out longer than in calms the body.",
    "It may help to tell one person you trust.", "Many people find the second week the hardest.",
    "Please talk with your clinician before you change a dose.", "What would you say to a friend in your place?",
    "Setbacks are part of it and do not undo what you learned.", "Notice where in the body you feel it first.",
    "Would it be easier if the first step were smaller?", "You have managed this before.",
    "Light in the morning and a walk set the clock of the body.", "Naming a feeling often makes it smaller.",
    "It is fine to stop here and come back later.", "If it gets worse tonight, use your safety plan.",
    "I can show you an article about this.",
)  # fmt: skip
IDENTIFYING = (
    "My name is {given} {family} and I was born on {born_us}.",
    "You can reach me at {phone} or {email}.",
    "I moved to {street}, {town}, {state} {zip} last month.",
    "The clinic has me as MRN {mrn}.",
    "My appointment with Dr. {doctor} was on {seen_us}.",
    "They asked for my social security number, {ssn}, on the phone.",
    "{given} here again, it is about the letter of {seen_long}.",
    "my mother still calls me {given_lower}, she lives in {town} too",
    "I am {age} years old and live in {town}, {state}.",
    "Please send it to {family}, {street}, zip {zip}.",
)
"""Sentences of patients by which somebody could be identified, with the ways in which people write."""
NOTED = (
    "Affect constricted, speech normal in rate.", "Sleep hygiene reviewed; diary to continue.", "No risk to self or others reported.",
    "Exposure hierarchy agreed, first step this week.", "Reports partial benefit of medication.", "Homework done on five of seven days.",
    "Discussed relapse signs and whom to call.", "Grounding practised in session.", "Oriented in all spheres.",
)  # fmt: skip
GOALS = (
    "Sleep at least six hours on five nights a week", "One social contact outside the family each week",
    "Use the breathing exercise before meetings", "Regular meals", "Return to work part time",
    "Walk for twenty minutes a day", "Talk with the clinician about side effects",
)  # fmt: skip
