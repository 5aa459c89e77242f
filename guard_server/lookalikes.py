"""Letters of other alphabets that pass for Latin ones: a table, after Unicode's confusables.txt, and what is drawn from it.

Only letters whose shape is taken for one Latin letter, from the scripts that such texts are made with; what Unicode itself calls
compatible (mathematical, full-width and circled letters) needs no table. Imports nothing of ours.
"""

from typing import Final

_PAIRS: Final = (
    ("ɑƄꞴᴄꬲꬵꞙẝꞘɡᶃƍɪɩꞲƖǀᴏᴑꬽꭇꭈƦꜱƽꞟᴜꭎꭒʋᴠɯᴡꞳɣᶌʏỿꭚᴢ", "abBcefffFgggiiJllooorrRssuuuuuvwwXyyyyyz"),  # Latin
    ("αΑΒΕϜΗιϳͿΚΙΜϺΝοσΟρΡᴦΤυνΧγΥΖ", "aABEFHijJKlMMNooOpPrTuvXyYZ"),  # Greek
    ("аАЬВсСԁеҽЕԌһНіꙇӏјЈКІӀМоОрРԛгѕЅТѵѴѡԝԜхХуүУҮ", "aAbBcCdeeEGhHiiljJKllMoOpPqrsSTvVwwWxXyyYY"),  # Cyrillic
    ("ᎪᏏᏴꮯᏟᏧᎠᎬᏀᏳᏂᎻꭵᎥᎫᏦᏞᎷᏢꮁᎡᏒꮪᏕᏚᎢꮩᏙꮃᎳᏔᎩᎽꮓᏃ", "AbBcCdDEGGhHiiJKLMPrRRsSSTvVwWWYYzZ"),  # Cherokee
    ("ᗅᑲᖯᗷᑯᗞᗪᖴᕼᒍᒪᗰᑭᖇᑌᐯᕁᕽ", "AbbBdDDFHJLMPRUVxx"),  # Canadian
    ("ꓮꓐꓚꓒꓓꓰꓝꓖꓧꓙꓗꓲꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ", "ABCdDEFGHJKlLMNOPRSTUVWXYZ"),  # Lisu
    ("ⲥⲤⲎⲔⲒⳐⲘⲚⲟⲞⲣⲢⲅⲦⲬⲨ", "cCHKlLMNoOpPrTXY"),  # Coptic
    ("քցհոռօՕգզՏսՍա", "fghnnoOqqSuUw"),  # Armenian
    ("ჿყ", "oy"),  # Georgian
    ("ʙɢʜᴀᴅᴇᴊᴋʟᴍɴᴘʀᴛ", "bghadejklmnprt"),  # Latin: small capitals
    ("εηκτωχ", "enktwx"),  # Greek, by shape or sound
    ("вкмнтпия", "bkmhtnnr"),  # Cyrillic, by shape
)

LATIN: Final = {ord(a): b for letters, latin in _PAIRS for a, b in zip(letters, latin, strict=True)}
"""Code point of the look-alike to the Latin letter: what `str.translate` takes."""
