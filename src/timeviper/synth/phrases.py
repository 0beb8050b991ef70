"""How people ask: phrasings of each task, the plainest first. A table."""

from __future__ import annotations

from types import MappingProxyType

PHRASES = MappingProxyType(
    {
        "what": (
            "What appears in the video?",
            "What is in the video?",
            "What can be seen in this video?",
            "What do you see in the video?",
            "Which objects appear in the video?",
            "What things show up in the video?",
            "List the objects in the video.",
            "Name everything that appears.",
            "What objects are shown?",
            "Tell me what appears in this clip.",
        ),
        "when": (
            "When does the {name} appear?",
            "When is the {name} on screen?",
            "When can the {name} be seen?",
            "When does the {name} show up?",
            "At what time does the {name} appear?",
            "When do you see the {name}?",
            "Find the {name}.",
            "From when to when is the {name} visible?",
            "In which part of the video is the {name} shown?",
            "When does {name} appear?",
            "When is there a {name}?",
            "When does a {name} first appear?",
        ),
        "at_time": (
            "What is on screen at {time}?",
            "What appears at {time}?",
            "What is shown at {time}?",
            "What do you see at {time}?",
            "What can be seen at {time}?",
            "At {time}, what is on screen?",
            "Which object is visible at {time}?",
            "What is there at {time}?",
            "What is in the video at {time}?",
            "What object is on the screen at {time}?",
        ),
        "first": (
            "Which appears first, the {name} or the {other}?",
            "What comes first, the {name} or the {other}?",
            "Which is seen first, the {name} or the {other}?",
            "Which shows up first, the {name} or the {other}?",
            "Does the {name} or the {other} appear first?",
            "Which one is earlier, the {name} or the {other}?",
            "Which comes before the other, the {name} or the {other}?",
            "Of the {name} and the {other}, which appears first?",
        ),
        "count": (
            "How many times does the {name} appear?",
            "How often does the {name} appear?",
            "How many times is the {name} shown?",
            "How often is the {name} seen?",
            "How many times can the {name} be seen?",
            "How many times do you see the {name}?",
            "Count the appearances of the {name}.",
            "How many times does the {name} show up?",
            "How many times does a {name} appear?",
        ),
        "absent": (
            "Does the {name} appear?",
            "Is there a {name} in the video?",
            "Does a {name} appear in the video?",
            "Do you see a {name}?",
            "Is the {name} in the video?",
            "Can you see the {name}?",
            "Does the {name} show up?",
            "Is there a {name}?",
            "Did the {name} appear?",
            "Is a {name} shown at any time?",
        ),
    }
)

# Words that users may type and that the tokenizer should know whole.
FILLERS = (
    "Please tell me what happens in this video, clip or movie, and when it happens.",
    "Where, who, why, how long, how much, which, what, when, is, are, was, were, do, does, did.",
    "Describe the scene, the object, the animal, the person, the colour, the background, the time.",
    "The video lasts for seconds and minutes; frames are shown; start, end, "
    "before, after, between.",
    "I do not know. Yes, there is one. No, there is none. Nothing is on screen at that moment.",
)
