# Flattens a JSON document: one line "a.0.b<TAB>value" for each leaf, in order. Strings lose
# their escapes; a line break inside a string becomes a space.

{ text = text $0 "\n" }

END {
    position = 1
    parse("")
}

function blank() {
    while (position <= length(text) && substr(text, position, 1) ~ /[ \t\r\n]/)
        position++
}

function parse(path,    first, rest) {
    blank()
    first = substr(text, position, 1)
    if (first == "{")
        container(path, "}")
    else if (first == "[")
        container(path, "]")
    else if (first == "\"")
        print path "\t" string()
    else {
        rest = substr(text, position)
        match(rest, /^[^] \t\r\n,}]+/)
        print path "\t" substr(rest, 1, RLENGTH)
        position += RLENGTH
    }
}

function container(path, closing,    number, key) {
    position++
    number = 0
    for (;;) {
        blank()
        if (position > length(text))
            exit 1
        if (substr(text, position, 1) == closing) {
            position++
            return
        }
        if (substr(text, position, 1) == ",") {
            position++
            continue
        }
        key = number++
        if (closing == "}") {
            key = string()
            blank()
            position++
        }
        parse(path == "" ? key : path "." key)
    }
}

function string(    result, one, two) {
    result = ""
    for (position++; position <= length(text); position++) {
        one = substr(text, position, 1)
        if (one == "\"")
            break
        if (one == "\\") {
            position++
            one = substr(text, position, 1)
            if (one == "n" || one == "r" || one == "t")
                one = " "
            else if (one == "u") {
                one = unicode(substr(text, position + 1, 4))
                position += 4
            }
        }
        result = result one
    }
    position++
    sub(/ +$/, "", result)
    return result
}

function unicode(digits,    code, i) {
    code = 0
    for (i = 1; i <= 4; i++)
        code = code * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
    return code < 128 ? sprintf("%c", code) : "?"
}
