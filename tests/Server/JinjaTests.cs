using System.Text.Json;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Tests.Server;

/// <summary>Templates and the text that Jinja2 3.1 makes of them, as transformers configures it.</summary>
public sealed class JinjaTests
{
    private static string Render(string template) => ChatTemplate.Parse(template).Render(
        JsonElement.Parse("""[{"role":"user","content":"Hello","n":1.0,"big":18446744073709551615,"nested":{"b":[1,null],"a":true}}]"""),
        null, false, "<s>", "</s>", ct: TestContext.Current.CancellationToken);

    private static void Check(string template, string expected) => Assert.Equal(expected, Render(template));

    [Theory]
    [InlineData("{% if true %}\n  a\n{% endif %}\nb", "  a\nb")]
    [InlineData("  {% if true %}x{% endif %}  y", "x  y")]
    [InlineData("a  {%- if true -%}  b  {%- endif -%}  c", "abc")]
    [InlineData("  {%+ if true %}x{% endif +%}\ny", "  x\ny")]
    [InlineData("{# c #}\nx\n  {# c #}\ny", "x\ny")]
    [InlineData("{{ 1 }}\n{{ 2 }}\n", "1\n2")]
    [InlineData("a\n\n", "a\n")]
    [InlineData("{% raw %}\n{{ x }}{% endraw %}\nb", "\n{{ x }}b")]
    [InlineData("  {%- raw -%}  {{ y }}  {%- endraw -%}  z", "{{ y }}z")]
    [InlineData("a {#- c -#} b", "ab")]
    [InlineData("{{- 1 -}}  \n {{ 2 }}", "12")]
    [InlineData("\t {% set x = 1 %}\n{{ x }}", "1")]
    [InlineData("x {% set y = 1 %} z", "x  z")]
    [InlineData("a\r\nb\r{% if 1 %}\r\nc{% endif %}", "a\nb\nc")]
    [InlineData("{% raw %}a{%- endraw %}", "a")]
    [InlineData("  a{% if 1 %}\n\n b{% endif %}", "  a\n b")]
    [InlineData("{#-#}a", "a")]
    [InlineData("{{ '%}' }}{{ {'a': {'b': 1}}['a']['b'] }}", "%}1")]
    [InlineData("{%if 1%}a{%endif%}", "a")]
    [InlineData("{ {{ '}}' }} }", "{ }} }")]
    public void Whitespace(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ 'a\\n\\t\\\\\\'\\x41\\u00e9\\U0001F600\\101\\q' }}", "a\n\t\\'Aé😀A\\q")]
    [InlineData("{{ \"it's\" }} {{ 'a' 'b' \"c\" }}", "it's abc")]
    [InlineData("{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5 }} {{ 1e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 123456789.123 }} {{ 1.0 }} {{ 0.1 + 0.2 }}", "1000 31 5 15 1.5 1000.0 1e+16 1e-05 123456789.123 1.0 0.30000000000000004")]
    [InlineData("{{ true }} {{ True }} {{ none }} {{ None }} {{ false }}", "True True None None False")]
    [InlineData("{{ [1, 'a', none, 2.0, (1,), (), {'k': [true]}] }}", "[1, 'a', None, 2.0, (1,), (), {'k': [True]}]")]
    [InlineData("{{ (1, 2) }} {{ 1, 2 }} {{ (1,) }} {{ (1) }}", "(1, 2) (1, 2) (1,) 1")]
    [InlineData("{{ {'a': 1, 2: 'b', 1.5: none,} }} {{ {} }} {{ [] }}", "{'a': 1, 2: 'b', 1.5: None} {} []")]
    [InlineData("{{ ['it\\'s', 'say \"x\"', 'both \\' \"', 'a\\nb\\t\\\\', '\\x00\\x7f\\xa0é\\u200b\\U0001F600'] }}", "[\"it's\", 'say \"x\"', 'both \\' \"', 'a\\nb\\t\\\\', '\\x00\\x7f\\xa0é\\u200b😀']")]
    [InlineData("{{ 1e300 * 1e10 }} {{ -1e300 * 1e10 }}", "inf -inf")]
    [InlineData("{{ 100.0 }} {{ 1e22 }} {{ 12345678901234567890.0 }} {{ 0.0001 }} {{ 0.00001 }}", "100.0 1e+22 1.2345678901234567e+19 0.0001 1e-05")]
    public void Literals(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }}", "3 -4 1 2 -2 3.5 3.0 1024 0.5")]
    [InlineData("{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 + 1.0 }} {{ true + 1 }} {{ -true }}", "3.0 0.5 2.0 2 -1")]
    [InlineData("{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }}", "64 4 3 9")]
    [InlineData("{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 2 * 'x' }} {{ [1] + [2] }} {{ [1, 2] * 2 }} {{ (1,) + (2,) }} {{ 'a' * -1 }}|", "ab ababab xx [1, 2] [1, 2, 1, 2] (1, 2) |")]
    [InlineData("{{ 1 ~ 'a' ~ none ~ 1.5 ~ [1] }} {{ 'a' ~ 1 }}", "1aNone1.5[1] a1")]
    [InlineData("{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 'a') >= (1, 'a') }}", "True False True True False True True True")]
    [InlineData("{{ 1 in [1.0] }} {{ 'b' in 'abc' }} {{ 'k' in {'k': 1} }} {{ 2 not in (1, 3) }} {{ not 1 in [1] }} {{ none in [none] }}", "True True True True False True")]
    [InlineData("{{ 1 and 'x' }} {{ 0 or 'y' }} {{ '' or none }} {{ not '' }} {{ [] and 1 }} {{ not not 1 }}", "x y None True [] True")]
    [InlineData("{{ 'a' if true }}|{{ 'a' if false }}|{{ 'a' if 0 else 'b' if 0 else 'c' }}", "a||c")]
    [InlineData("{{ -1|abs }} {{ -5 + 3|abs }}", "1 -2")]
    [InlineData("{{ '%s is %d and %05.1f%%' % ('a', 3, 2.25) }} {{ '%x %X %o %e %g %c %r' % (255, 255, 8, 12345.678, 0.0001, 'z', 'q') }} {{ '%-5s|%5s|%+d' % ('a', 'b', 3) }} {{ '%(k)s' % {'k': 1} }} {{ '%s' % 1 }}", "a is 3 and 002.2% ff FF 10 1.234568e+04 0.0001 z 'q' a    |    b|+3 1 1")]
    [InlineData("{{ [1,2] == [1,2] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ (1,) == [1] }} {{ none == false }} {{ undefined_a == undefined_b }}", "True True False False True")]
    [InlineData("{{ 1 if 2 > 1 and not false else 2 }} {{ 3 * -1 }} {{ +1 }} {{ - -1 }}", "1 -3 1 1")]
    [InlineData("{{ 'a' in 'abc' == true }}", "False")]
    [InlineData("{{ 5 is divisibleby 5 and 1 }}", "1")]
    [InlineData("{{ 10 // 3.0 }} {{ 1e0 }} {{ 2 ** 0.5 }} {{ 2 ** 62 }} {{ (-2) ** 3 }} {{ 0 ** 0 }} {{ 1 ** 99999 }} {{ (-1) ** 99999 }} {{ 10 ** 18 }}", "3.0 1.0 1.4142135623730951 4611686018427387904 -8 1 1 -1 1000000000000000000")]
    public void Operators(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1].content[1] }} {{ messages[5] is defined }} {{ messages[0].nope is defined }}", "user Hello e False False")]
    [InlineData("{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[-2:] }} {{ 'abc'[5:] }}| {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[:-10:-2] }}", "a c bcd fedcba ace ef | edc fdb")]
    [InlineData("{{ [1,2,3,4][1:] }} {{ [1,2,3,4][:-1] }} {{ (1,2,3)[::-1] }} {{ [1,2,3][none:2] }} {{ [1,2,3][::-2] }}", "[2, 3, 4] [1, 2, 3] (3, 2, 1) [1, 2] [3, 1]")]
    [InlineData("{{ {'items': 1}['items'] }} {{ {'a': 1}.items() | list }} {{ {'get': 5}.get('get') }} {{ {'a': 1}['get']('b', 2) }}", "1 [('a', 1)] 5 2")]
    [InlineData("{% set d = {'a': {'b': [10, 20]}} %}{{ d.a.b.1 }} {{ d['a']['b'][0] }} {{ d.a.c is defined }} {{ d.get('z') }} {{ d.get('z', 'dflt') }}", "20 10 False None dflt")]
    [InlineData("{{ '😀b'|length }} {{ '😀b'[0] }} {{ '😀b'[::-1] }} {{ '😀bc'[1:] }} {{ 'a😀b😀'.find('b') }} {{ 'x😀'|list }}", "2 😀 b😀 bc 2 ['x', '😀']")]
    [InlineData("{{ x }}|{{ x is defined }}|{{ x|default('d') }}|{{ x|length }}|{{ x|list }}", "|False|d|0|[]")]
    [InlineData("{{ messages[0].n }} {{ messages[0].big }} {{ messages[0].nested }} {{ messages[0].nested|tojson }}", "1.0 18446744073709551615 {'b': [1, None], 'a': True} {\"b\": [1, null], \"a\": true}")]
    [InlineData("{{ none.x is defined }} {{ (1).x is defined }} {{ 'a'.x is defined }}", "False False False")]
    [InlineData("{{ {1: 'a', true: 'b', 1.0: 'c'} }} {{ {1: 'a'}[1.0] }} {{ {(1, 'a'): 'x'}[(1, 'a')] }}", "{1: 'c'} a x")]
    [InlineData("{{ [[1, 2], [3, 4]][1][0] }} {{ [1,2,3][1:][0] }} {{ 'a,b'.split(',')[1] }} {{ ('a', 'b')[1] }}", "3 2 b b")]
    [InlineData("{{ {'a': 1}.b is undefined }} {{ [1]['a'] is undefined }} {{ [1][true] is undefined }} {{ {'a': 1}[['x']] is undefined }}", "True True True True")]
    public void Access(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}", "10TrueFalse332 21FalseFalse321 32FalseTrue310 ")]
    [InlineData("{% for i in [1, 2, 3] %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}", "-2;1-3;2-;")]
    [InlineData("{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop.depth }}{{ loop.changed(i // 2) }} {% endfor %}", "a1True b1True a1False ")]
    [InlineData("{% for i in [] %}x{% else %}empty{% endfor %}{% for i in nope %}x{% else %}none{% endfor %}", "emptynone")]
    [InlineData("{% for i in range(10) if i % 2 %}{{ i }}{{ loop.length }} {% endfor %}", "15 35 55 75 95 ")]
    [InlineData("{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}", "0134")]
    [InlineData("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}", "a=1,b=2")]
    [InlineData("{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123")]
    [InlineData("{% for c in 'aé😀' %}[{{ c }}]{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}", "[a][é][😀]x")]
    [InlineData("{% for x in [[1, [2, [3]]]] recursive %}{{ loop.depth }}:{% for y in x %}{% if y is iterable %}{{ loop.index }}{% else %}{{ y }}{% endif %}{% endfor %}{% endfor %}", "1:12")]
    [InlineData("{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}, {'v': 3, 'c': []}]}] recursive %}<{{ n.v }}{{ loop(n.c) }}>{{ loop.depth0 }}{% endfor %}", "<1<2>1<3>1>0")]
    [InlineData("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}", "15151")]
    [InlineData("{% set ns = namespace(n=0, s='') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.zzz is defined }}", "6123False")]
    [InlineData("{% set a, b = 1, [2, 3] %}{{ a }}{{ b }}{% set (c, d) = 'xy' %}{{ d }}{{ c }}{% set t = 1, 2 %}{{ t }}", "1[2, 3]yx(1, 2)")]
    [InlineData("{% set x %}a{{ 1 + 1 }}\n{% endset %}[{{ x }}]{% set y | upper | trim %} b {% endset %}[{{ y }}]", "[a2\n][B]")]
    [InlineData("{% if 0 %}a{% elif '' %}b{% elif [0] %}c{% else %}d{% endif %}{% if none %}x{% endif %}", "c")]
    [InlineData("{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=9) }} {{ m(b=5, a='x') }}", "121 131 129 x5x")]
    [InlineData("{% macro m(a) %}[{{ a }}|{{ varargs }}|{{ kwargs }}]{% endmacro %}{{ m(1, 2, 3, k=4) }}{{ m() }}", "[1|(2, 3)|{'k': 4}][|()|{}]")]
    [InlineData("{% macro outer() %}<{{ caller('a', 1) }}>{% endmacro %}{% call(x, y) outer() %}{{ x }}{{ y }}{% endcall %}", "<a1>")]
    [InlineData("{% macro fact(n) %}{{ n * fact(n - 1)|int if n > 1 else 1 }}{% endmacro %}{{ fact(10) }}", "3628800")]
    [InlineData("{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 3 %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}{{ x }}", "232")]
    [InlineData("{% macro later() %}{{ helper() }}{% endmacro %}{% macro helper() %}h{% endmacro %}{{ later() }}", "h")]
    [InlineData("{% filter upper %}a{{ 'b' }}{% endfilter %}{% filter replace('a', 'b') | trim %} aa {% endfilter %}", "ABbb")]
    [InlineData("{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 7 %}{{ a }}{% endwith %}{{ a is defined }}", "127False")]
    [InlineData("{% generation %}a{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "aFalse")]
    [InlineData("{% print 1, 2 %}{% print 'a' %}", "12a")]
    [InlineData("{% for i in range(3) %}{% for j in range(i) %}{{ loop.index }}{% endfor %};{% endfor %}", ";1;12;")]
    [InlineData("{% for i in [1,2] %}{% set y = i %}{% if y == 1 %}{% set z = 'a' %}{% endif %}{{ z }}{% endfor %}{{ z is defined }}", "aFalse")]
    [InlineData("{% if true %}{% set w = 1 %}{% endif %}{{ w }}", "1")]
    [InlineData("{% macro m() %}{% if true %}{% for i in [1] %}{{ i }}{% endfor %}{% endif %}{% endmacro %}[{{ m() | trim }}]{{ m.name }}", "[1]m")]
    [InlineData("{% set f = dict(a=1, b=2) %}{{ f }} {{ dict({'x': 1}, y=2) }} {{ dict([('p', 1)]) }} {{ range(5)|list }} {{ range(5, 1, -2)|list }} {{ range(2, 5)|last }}", "{'a': 1, 'b': 2} {'x': 1, 'y': 2} {'p': 1} [0, 1, 2, 3, 4] [5, 3] 4")]
    [InlineData("{% macro m(x) %}{{ x is defined }}{% endmacro %}{{ m() }}{{ m(none) }}", "FalseTrue")]
    [InlineData("{% macro m(a, b) %}{{ a }}-{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'b': 3, 'a': 4}) }}", "1-24-3")]
    [InlineData("{% set l = [1] %}{% for i in [2, 3] %}{% set _ = l.append(i) %}{% endfor %}{{ l }} {{ l.pop() }}{{ l.pop(0) }}{{ l }}", "[1, 2, 3] 31[2]")]
    [InlineData("{% set d = {} %}{% set _ = d.update({'a': 1}) %}{% set _ = d.update(b=2) %}{{ d }}{{ d.pop('a') }}{{ d }}{{ d.setdefault('c', 5) }}{{ d }}", "{'a': 1, 'b': 2}1{'b': 2}5{'b': 2, 'c': 5}")]
    public void Statements(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ '  a ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ none | trim }}|{{ 5 | string | length }}", "a|a|None|1")]
    [InlineData("{{ [1, 'a', none] | join(', ') }} {{ [{'a': 1}, {'a': 2}] | join('-', attribute='a') }} {{ 'abc' | join('.') }} {{ [] | join }}|", "1, a, None 1-2 a.b.c |")]
    [InlineData("{{ 'aBc dEF' | upper }} {{ 'aBc' | lower }} {{ 'aBc dEF' | capitalize }} {{ \"they're bill's-friends (from x)\" | title }}", "ABC DEF abc Abc def They're Bill's-Friends (From X)")]
    [InlineData("{{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc' | replace('', '-') }} {{ 'abc' | replace('', '-', 2) }} {{ 123 | replace(2, 'x') }}", "bba -a-b-c- -a-bc 1x3")]
    [InlineData("{{ x | default('a') }} {{ '' | default('a') }}| {{ '' | default('a', true) }} {{ none | d('z') }} {{ none | d('z', boolean=true) }} {{ x | default }}|", "a | a None z |")]
    [InlineData("{{ [3, 1, 2] | first }} {{ [3, 1, 2] | last }} {{ [] | first }}| {{ 'abc' | last }} {{ [] | last is defined }}", "3 2 | c False")]
    [InlineData("{{ [{'a': {'b': 1}}, {'a': {'b': 2}}] | map(attribute='a.b') | list }} {{ ['a', 'B'] | map('upper') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default=0) | list }} {{ ['ab', 'cd'] | map('replace', 'a', 'x') | join }}", "[1, 2] ['A', 'B'] [1, 0] xbcd")]
    [InlineData("{{ [1, 2, 3, 4] | select('even') | list }} {{ [0, 1, '', 'a'] | select | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ [1, 2, 3] | select('gt', 1) | list }} {{ [1, none] | reject('none') | list }}", "[2, 4] [1, 'a'] [2] [2, 3] [1]")]
    [InlineData("{{ [{'r': 'a'}, {'r': 'b'}, {}] | selectattr('r', 'equalto', 'a') | list }} {{ [{'r': 1}, {}] | selectattr('r') | list }} {{ [{'r': 1}, {}] | rejectattr('r', 'defined') | list }} {{ [{'r': 1}] | selectattr('r', 'in', [1, 2]) | list | length }}", "[{'r': 'a'}] [{'r': 1}] [{}] 1")]
    [InlineData("{{ {'b': 1, 'A': 2, 'a': 3} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }} {{ {'b': 1, 'A': 2} | dictsort(true) }}", "[('A', 2), ('a', 3), ('b', 1)] [('b', 1), ('a', 2)] [('b', 1), ('a', 2)] [('A', 2), ('b', 1)]")]
    [InlineData("{{ ['b', 'A', 'a', 'C'] | sort }} {{ ['b', 'A', 'a'] | sort(case_sensitive=true) }} {{ [3, 1, 2] | sort(reverse=true) }} {{ [{'n': 2}, {'n': 1}] | sort(attribute='n') }}", "['A', 'a', 'b', 'C'] ['A', 'a', 'b'] [3, 2, 1] [{'n': 1}, {'n': 2}]")]
    [InlineData("{{ ['a', 'A', 'b', 'a'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ [1, 1.0, true, 2] | unique | list }}", "['a', 'b'] ['a', 'A'] [1, 2]")]
    [InlineData("{{ 'abc' | reverse }} {{ [1, 2, 3] | reverse | list }} {{ 'a😀' | reverse }}", "cba [3, 2, 1] 😀a")]
    [InlineData("{{ '42' | int }} {{ '42.9' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.99 | int }} {{ -3.99 | int }} {{ '0x1F' | int(base=16) }} {{ true | int }} {{ none | int }} {{ ' 12 ' | int }}", "42 42 0 7 3 -3 31 1 0 12")]
    [InlineData("{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'x' | float(2.5) }} {{ '1e3' | float }} {{ 'inf' | float }}", "1.5 0.0 3.0 2.5 1000.0 inf")]
    [InlineData("{{ 42.55 | round }} {{ 42.55 | round(1) }} {{ 2.675 | round(2) }} {{ 0.125 | round(2) }} {{ 2.5 | round }} {{ 42.51 | round(1, 'floor') }} {{ 42.51 | round(0, 'ceil') }} {{ 5 | round }} {{ 1234.5 | round(-2) }} {{ -0.5 | round }} {{ 1e20 | round }}", "43.0 42.5 2.67 0.12 2.0 42.5 43.0 5 1200.0 -0.0 1e+20")]
    [InlineData("{{ [1, 2, 3] | sum }} {{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }} {{ [1.5] | sum(start=1) }} {{ [] | sum }}", "6 3 2.5 0")]
    [InlineData("{{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ ['b', 'A'] | min }} {{ [] | max }}| {{ [{'n': 1}, {'n': 5}] | max(attribute='n') }}", "1 3 A | {'n': 5}")]
    [InlineData("{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb' | indent('> ') }}|{{ 'a\\n' | indent }}|", "a\n    b\n\n    c|  a\n  b|a\n  \n  b|a\n> b|a\n|")]
    [InlineData("{{ '<a href=\"x\">&\\'' | e }} {{ '<b>' | safe }}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39; <b>")]
    [InlineData("{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ [1, 2, 3, 4, 5] | slice(3) | list }} {{ [1, 2, 3, 4] | slice(3, 'z') | list }}", "[[1, 2], [3, 4], [5]] [[1, 2], [3, 'x']] [[1, 2], [3, 4], [5]] [[1, 2], [3, 'z'], [4, 'z']]")]
    [InlineData("{% for g, items in [{'r': 'b', 'n': 1}, {'r': 'a', 'n': 2}, {'r': 'b', 'n': 3}] | groupby('r') %}{{ g }}:{{ items | map(attribute='n') | join(',') }};{% endfor %}{{ ([{'r': 1}] | groupby('r') | first).grouper }}", "a:2;b:1,3;1")]
    [InlineData("{{ 'a b  c-d' | wordcount }} {{ '%s-%s' | format(1, 'b') }} {{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '..', 0) }}", "4 1-b foo... foo ba... foo bar baz qux foo bar..")]
    [InlineData("{{ 'x' | center(5) }}|{{ 'xy' | center(5) }}|{{ 'abc' | list }} {{ {'a': 1} | list }} {{ {'a': 1} | items | list }} {{ {'a': 1} | length }} {{ 'é' | count }}", "  x  |  xy |['a', 'b', 'c'] ['a'] [('a', 1)] 1 1")]
    [InlineData("{{ -3 | abs }} {{ -1.5 | abs }} {{ 'a b/c?é' | urlencode }} {{ {'a': 1} | attr('get') is callable }}", "3 1.5 a%20b/c%3F%C3%A9 True")]
    [InlineData("{{ (none | selectattr('a') | list) }} {{ none | map('upper') | list }} {{ x | select | list }}", "[] [] []")]
    [InlineData("{{ 'a' if [] | select else 'b' }} {{ [1, 2] | map('string') | first }} {% set g = [1, 2] | map('string') %}{{ g | list }}{{ g | list }}", "a 1 ['1', '2'][]")]
    public void Filters(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ {'a': [1, 2.0, none, true], 'b': {'c': 'é\"\\\\\\n\\t\\x01</x>\\'\\x7f😀'}} | tojson }}", "{\"a\": [1, 2.0, null, true], \"b\": {\"c\": \"é\\\"\\\\\\n\\t\\u0001</x>'\u007f😀\"}}")]
    [InlineData("{{ [1, {'a': []}, {}, [{}]] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": []\n  },\n  {},\n  [\n    {}\n  ]\n]")]
    [InlineData("{{ {'a': 1, 'b': [1, 2]} | tojson(indent=4) }}", "{\n    \"a\": 1,\n    \"b\": [\n        1,\n        2\n    ]\n}")]
    [InlineData("{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 'é😀' | tojson(ensure_ascii=true) }} {{ 'é' | tojson(ensure_ascii=false) }}", "{\"b\":1,\"a\":[1,2]} {\"a\": 2, \"b\": 1} \"\\u00e9\\ud83d\\ude00\" \"é\"")]
    [InlineData("{{ (1, 'a') | tojson }} {{ {1: 2, 1.5: 3, true: 4} | tojson }} {{ 1e16 | tojson }} {{ 'inf' | float | tojson }} {{ none | tojson }} {{ 'x' | tojson }}", "[1, \"a\"] {\"1\": 4, \"1.5\": 3} 1e+16 Infinity null \"x\"")]
    [InlineData("{{ [1, 2] | tojson(indent='\\t') }} {{ {'a': 1} | tojson(indent=0) }}", "[\n\t1,\n\t2\n] {\n\"a\": 1\n}")]
    [InlineData("{{ messages | tojson(indent=1) }}", "[\n {\n  \"role\": \"user\",\n  \"content\": \"Hello\",\n  \"n\": 1.0,\n  \"big\": 18446744073709551615,\n  \"nested\": {\n   \"b\": [\n    1,\n    null\n   ],\n   \"a\": true\n  }\n }\n]")]
    public void ToJson(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ 1 is number }} {{ true is number }} {{ true is boolean }} {{ 1 is boolean }} {{ '1' is number }}", "True False True True True True False False")]
    [InlineData("{{ 'a' is string }} {{ [] is sequence }} {{ {} is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }} {{ {} is mapping }} {{ [] is mapping }} {{ [] is iterable }} {{ 1 is iterable }} {{ none is iterable }} {{ x is iterable }} {{ x is sequence }}", "True True True True False True False True False False True True")]
    [InlineData("{{ none is none }} {{ x is none }} {{ x is undefined }} {{ none is defined }} {{ true is true }} {{ 1 is true }} {{ 0 is false }} {{ false is false }}", "True False True True True False False True")]
    [InlineData("{{ 4 is even }} {{ 3 is odd }} {{ 9 is divisibleby(3) }} {{ 9 is divisibleby 2 }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 1 is equalto 1 }} {{ 'a' is in ['a'] }} {{ 3 is sameas 3 }}", "True True True False True True True True True True True")]
    [InlineData("{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'Abc' is lower }} {{ '123' is upper }} {{ range is callable }} {{ 'a' is callable }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'even' is test }}", "True True False False True False True False True")]
    [InlineData("{{ 1 is not none }} {{ not 1 is none }} {{ 'yes' if 'a' is string else 'no' }} {{ 'a' is not string and true }} {{ 1 is defined and 1 is number }} {{ [1] is not mapping or false }}", "True True yes False True True")]
    [InlineData("{{ (1 == 1) is true }}", "True")]
    public void Tests(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ ' a b '.strip() }}|{{ 'xyaxy'.strip('yx') }}|{{ ' a'.lstrip() }}|{{ 'a\\n\\n'.rstrip('\\n') }}|{{ '<think>x'.lstrip('<think>') }}|", "a b|a|a|a|x|")]
    [InlineData("{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b c '.rsplit(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a</think>b'.split('</think>')[-1] }}", "['a', 'b', 'c'] ['a', 'b'] ['a', 'b,c'] ['a', 'b c'] ['a,b', 'c'] [' a  b', 'c'] [] [''] b")]
    [InlineData("{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.find('c') }} {{ 'abcabc'.rfind('b') }} {{ 'abc'.find('z') }} {{ 'abc'.index('b') }} {{ 'aaa'.count('a') }} {{ 'aaa'.count('') }}", "True True True 2 4 -1 1 3 4")]
    [InlineData("{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 1) }} {{ 'hello world'.title() }} {{ \"they're x1y\".title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'aB'.swapcase() }} {{ 'ÀÉ'.lower() }} {{ 'àé'.upper() }}", "a+b baa Hello World They'Re X1Y Hello world Ab àé ÀÉ")]
    [InlineData("{{ ', '.join(['a', 'b']) }} {{ '-'.join('abc') }} {{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'a\\nb'.splitlines(true) }}", "a, b a-b-c ['a', 'b', 'c'] ['a\\n', 'b']")]
    [InlineData("{{ '5'.isdigit() }} {{ ''.isdigit() }} {{ 'ab1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' \\n'.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ '1'.islower() }} {{ '½'.isnumeric() }} {{ 'é'.isascii() }}", "True False True True True True True False True False")]
    [InlineData("{{ 'abc'.removeprefix('ab') }} {{ 'abc'.removesuffix('bc') }} {{ 'abc'.removeprefix('x') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'a'.partition('=') }} {{ 'a'.rpartition('=') }}", "c a abc ('a', '=', 'b=c') ('a=b', '=', 'c') ('a', '', '') ('', '', 'a')")]
    [InlineData("{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ 'ab'.center(5, '*') }}{{ 'ab'.center(5) }}|{{ 'a'.center(4, '-') }}|{{ '-5'.zfill(4) }} {{ '5'.zfill(3) }}", "a..  a**ab*  ab |-a--|-005 005")]
    [InlineData("{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=none) }} {{ '{{}}'.format() }} {{ '{0[0]}{1[k]}'.format([1], {'k': 2}) }} {{ '{!r}'.format('a') }}", "1 a ba None {} 12 'a'")]
    [InlineData("{{ '{:.2f}|{:>5}|{:<5}|{:^5}|{:05d}|{:,}|{:+d}|{:x}|{:%}|{:*^7}'.format(3.14159, 'a', 'b', 'c', 42, 1234567, 5, 255, 0.25, 'mid') }} {{ '{:.3}'.format('abcdef') }} {{ '{:g}'.format(0.0001) }} {{ '{:e}'.format(12345.678) }} {{ '{:.1f}'.format(0.25) }} {{ '{:,.2f}'.format(1234567.891) }} {{ '{:b}'.format(5) }}", "3.14|    a|b    |  c  |00042|1,234,567|+5|ff|25.000000%|**mid** abc 0.0001 1.234568e+04 0.2 1,234,567.89 101")]
    public void StringMethods(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %} {{ {'a': 1}.get('a') }}", "['a'] [1] a1 1")]
    [InlineData("{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2).index(2) }} {% set l = [1, 2] %}{% set _ = l.insert(0, 5) %}{% set _ = l.extend([7]) %}{{ l }}", "2 1 1 [5, 1, 2, 7]")]
    [InlineData("{% set d = {'a': 1} %}{% set c = d.copy() %}{% set _ = c.update(a=2) %}{{ d }}{{ c }}", "{'a': 1}{'a': 2}")]
    public void ListAndDictMethods(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ 'a<'|safe + 'b<' + 'c&' }} {{ '<' + ('<'|e) }} {{ '<'|e|e }} {{ '<'|e ~ '<' }} {{ ('<'|e)|upper }}", "a<b&lt;c&amp; &lt;&lt; &lt; &lt;< &LT;")]
    [InlineData("{% set x = 'a<'|safe %}{{ x + '<' }} {{ x == 'a<' }} {{ x|length }} {{ {x: x}|tojson }} {{ 'a<' in [x] }}", "a<&lt; True 2 {\"a<\": \"a<\"} True")]
    public void Safe_EscapesWhatPlusJoinsToIt(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ true|round }} {{ 15|round(-1) }} {{ 25|round(-1) }} {{ -15|round(-1) }} {{ 1|round(-30) }} {{ 2.5|round }}", "1 20 20 -20 0 2.0")]
    [InlineData("{{ 0.0 is even }} {{ 3.0 is odd }} {{ 4.0 is divisibleby 2 }} {{ -2 % 1.0 }} {{ 2 % -1.0 }}", "True True True 0.0 -0.0")]
    [InlineData("{{ {'a b': 1, 'c': '&/'}|urlencode }} {{ [('x', 'é')]|urlencode }} {{ 'a b/c'|urlencode }}", "a+b=1&c=%26%2F x=%C3%A9 a%20b/c")]
    [InlineData("{{ [{'a': 2, 'b': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 1}]|sort(attribute='a,b') }}", "[{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 1}]")]
    [InlineData("{{ {'a': 1}|attr('a') }}|{{ [1, 2]|select|reverse }}|{{ 'x' % [1] }}|{{ 'ab'.isprintable() }}|{{ [1]|truncate(5) }}", "|[2, 1]|x|True|[1]")]
    [InlineData("{{ '\\x7f\\x1fé\\u2028'|tojson(ensure_ascii=true) }} {{ '\\x7f\\x1fé'|tojson }} {{ '\\U0001F600\"'|tojson(ensure_ascii=true) }}", "\"\\u007f\\u001f\\u00e9\\u2028\" \"\u007f\\u001fé\" \"\\ud83d\\ude00\\\"\"")]
    [InlineData("{{ 'abcdef'[::2] }} {{ 'abcdef'[::-2] }} {{ '\U0001F600bc'[::2] }}", "ace fdb \U0001F600c")]
    [InlineData("{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(x) m() %}{{ x }}{{ caller is defined }}{% endcall %}", "1False")]
    public void RareCases(string template, string expected) => Check(template, expected);

    [Theory]
    [InlineData("{{ nowhere|int }}", "'nowhere' is undefined")]
    [InlineData("{{ []|first|float }}", "sequence was empty")]
    [InlineData("{{ 7|indent }}", "indent can't be applied to 'int'")]
    [InlineData("{{ [1]|select|last }}", "not reversible")]
    [InlineData("{{ [] in {} }}", "unhashable type: 'list'")]
    [InlineData("{{ 10.0 ** 400 }}", "can't be raised")]
    [InlineData("{% filter length %}a{% endfilter %}", "must make a string, not int")]
    [InlineData("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "macro 'm' takes at most 1 arguments, not 2")]
    [InlineData("{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "macro 'm' has no parameter 'b'")]
    [InlineData("{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}", "macro 'm' has no parameter 'caller'")]
    public void WhatJinjaRefuses_IsRefused(string template, string expected) =>
        Assert.Contains(expected, Assert.Throws<TemplateException>(() => Render(template)).Message);

    [Theory]
    [InlineData("{% if x %}", 1, 11, "'if' is not closed")]
    [InlineData("a\n{{ x", 2, 1, "expected '}}'")]
    [InlineData("a\n  {{ 1 + }}", 2, 10, "expected an expression, found '}}'")]
    [InlineData("{% for x of y %}{% endfor %}", 1, 10, "expected 'in', found 'of'")]
    [InlineData("{% endif %}", 1, 4, "unknown statement 'endif'")]
    [InlineData("{% for x in y %}{% endif %}", 1, 20, "expected 'else' or 'endfor' of 'for'")]
    [InlineData("{% include 'a' %}", 1, 4, "'include' is not supported")]
    [InlineData("{% break %}", 1, 4, "'break' outside of a loop")]
    [InlineData("{{ (1] }}", 1, 6, "unexpected ']', expected ')'")]
    [InlineData("{{ 'a }}", 1, 4, "a string is not closed")]
    [InlineData("{# a", 1, 1, "a comment is not closed")]
    [InlineData("{% raw %}a", 1, 1, "a raw block is not closed")]
    [InlineData("{{ a ! b }}", 1, 6, "unexpected character '!'")]
    [InlineData("{% set 1 = 2 %}", 1, 8, "expected a name to assign to")]
    [InlineData("{{ 1 is number is string }}", 1, 16, "'is' would be the operand of the test 'number'")]
    [InlineData("{{ (x is defined if y) }}", 1, 18, "put the test in parentheses")]
    [InlineData("{{ f(a=1, 2) }}", 1, 11, "a positional argument after a named one")]
    public void Parse_TellsWhereAndWhatWasExpected(string template, int line, int column, string expected)
    {
        TemplateException e = Assert.Throws<TemplateException>(() => ChatTemplate.Parse(template));
        Assert.Equal((line, column), (e.Line, e.Column));
        Assert.Contains(expected, e.Message);
    }
}
