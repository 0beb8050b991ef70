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
            "Which things appear in the video?",
            "What things show up in the video?",
            "List the things in the video.",
            "Name everything that appears.",
            "What is shown?",
            "Tell me what appears in this clip.",
        ),
        "when": (
            "When does {the} appear?",
            "When is {the} on screen?",
            "When can {the} be seen?",
            "When does {the} show up?",
            "At what time does {the} appear?",
            "When do you see {the}?",
            "Find {the}.",
            "From when to when is {the} visible?",
            "In which part of the video is {the} shown?",
            "When does {name} appear?",
            "When is there {one}?",
            "When does {one} first appear?",
        ),
        "at_time": (
            "What is on screen at {time}?",
            "What appears at {time}?",
            "What is shown at {time}?",
            "What do you see at {time}?",
            "What can be seen at {time}?",
            "At {time}, what is on screen?",
            "What is visible at {time}?",
            "What is there at {time}?",
            "What is in the video at {time}?",
        ),
        "first": (
            "Which appears first, {the} or {other}?",
            "What comes first, {the} or {other}?",
            "Which is seen first, {the} or {other}?",
            "Which shows up first, {the} or {other}?",
            "Does {the} or {other} appear first?",
            "Which one is earlier, {the} or {other}?",
            "Which comes before the other, {the} or {other}?",
            "Of {the} and {other}, which appears first?",
        ),
        "last": (
            "Which appears last, {the} or {other}?",
            "What comes last, {the} or {other}?",
            "Which is seen last, {the} or {other}?",
            "Which shows up last, {the} or {other}?",
            "Which one is later, {the} or {other}?",
            "Of {the} and {other}, which appears last?",
        ),
        "ordering": (
            "In which order do {list} appear?",
            "In what order do {list} show up?",
            "Put these in the order in which they appear: {list}.",
            "Order {list} by when they appear.",
            "Sort {list} by time.",
        ),
        "count": (
            "How many times does {the} appear?",
            "How often does {the} appear?",
            "How many times is {the} shown?",
            "How often is {the} seen?",
            "How many times can {the} be seen?",
            "How many times do you see {the}?",
            "Count the appearances of {the}.",
            "How many times does {the} show up?",
        ),
        "most_frequent": (
            "What appears most often?",
            "Which thing appears most often?",
            "What is shown the most times?",
            "What do you see most often in the video?",
            "Which thing comes back most often?",
        ),
        "absent": (
            "Does {the} appear?",
            "Is there {one} in the video?",
            "Does {one} appear in the video?",
            "Do you see {one}?",
            "Is {the} in the video?",
            "Can you see {the}?",
            "Does {the} show up?",
            "Is there {one}?",
            "Did {the} appear?",
            "Is {one} shown at any time?",
        ),
        "retrieval": (
            "What is shown with {the}?",
            "Which thing is shown with {the}?",
            "What has {the} below it?",
            "What appears together with {the}?",
            "What goes with {the}?",
            "What stands above {the}?",
        ),
        "multi_key": (
            "What is shown with {the}?",
            "Which thing is shown with {the}?",
            "What has {the} below it?",
            "What appears together with {the}?",
            "What goes with {the}?",
            "What stands above {the}?",
        ),
        "multi_value": (
            "What are all the things shown with {the}?",
            "List everything that is shown with {the}.",
            "Which things are shown with {the}?",
            "Name all things that have {the} below them.",
        ),
        "reading": (
            "Which {kind} is shown with {the}?",
            "What {kind} is shown with {the}?",
            "Which {kind} is written below {the}?",
            "Read the {kind} that is shown with {the}.",
            "What is the {kind} below {the}?",
        ),
        "chain": (
            "Start at {the} and follow the arrow {hops}. Where do you end?",
            "Starting at {the}, follow the arrows {hops}. What do you reach?",
            "Where do you get from {the} by following the arrow {hops}?",
            "Follow the arrow {hops} from {the}. What is there?",
        ),
        "motion": (
            "How does {the} move?",
            "Which way does {the} move?",
            "In which direction does {the} move?",
            "Where does {the} go?",
            "How is {the} moving?",
        ),
        "change": (
            "How does the whole picture change, and when?",
            "What happens to the picture, and when?",
            "When does the picture change, and how?",
            "Does the look of the video change? How and when?",
        ),
        "dense_caption": (
            "Describe everything that happens, with times.",
            "List all appearances with their times.",
            "What happens when? Give times.",
            "Caption the video with times.",
        ),
        "summary": (
            "Summarise the video.",
            "Give a summary of the video: what appears, and how often?",
            "What appears and how many times?",
            "Sum up what is shown.",
        ),
    }
)

# What is said where there is no video to look at.
NO_VIDEO = "there is no video."

# Words that users may type and that the tokenizer should know whole.
FILLERS = (
    "Please tell me what happens in this video, clip or movie, and when it happens.",
    "Where, who, why, how long, how much, which, what, when, is, are, was, were, do, does, did.",
    "Describe the scene, the object, the animal, the person, the colour, the background, the time.",
    "The video lasts for seconds and minutes; frames are shown; start, end, "
    "before, after, between.",
    "I do not know. Yes, there is one. No, there is none. Nothing is on screen at that moment.",
    "Answer with the letter of the right option. Summarize, order, sort, list, count, color.",
)
