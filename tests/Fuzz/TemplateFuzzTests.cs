using System.Text;
using System.Text.Json;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Tests.Fuzz;

/// <summary>Chat templates, which come with the model and are programs.</summary>
public sealed class TemplateFuzzTests
{
    private static readonly (string Messages, string? Tools, string? Extra)[] Conversations =
    [
        ("""[{"role":"user","content":"Hello"}]""", null, null),
        ("""[{"role":"system","content":"Be kind. <|im_end|>"},{"role":"user","content":"Hi \ud83d\ude00\n"},{"role":"assistant","content":"Hello!"},{"role":"user","content":""}]""", null, """{"enable_thinking":false,"x":[1,2.5,null,{"y":"z"}]}"""),
        ("""[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":[1,\"b\"]}"}}]},{"role":"tool","tool_call_id":"c1","content":"7"}]""",
            """[{"type":"function","function":{"name":"f","description":"Tells.","parameters":{"type":"object","properties":{"a":{"type":"array","items":{"type":["string","null"]}}},"required":["a"]}}}]""", null),
        ("""[{"role":"narrator","content":"x","name":"","extra":{"deep":[[[{}]]]}},{"role":"user"}]""", "[]", "{}"),
    ];

    private static readonly string[] Templates =
    [
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}{{ '<|' + message['role'] + '|>' ~ message.content | trim }}{%- if not loop.last %}\n{% endif -%}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "{%- macro show(v, depth=0) -%}{%- if v is mapping -%}{% for k, x in v | dictsort %}{{ '  ' * depth }}{{ k }}: {{ show(x, depth + 1) }}\n{% endfor %}{%- elif v is string -%}{{ v | tojson }}{%- else -%}{{ v | string | upper }}{%- endif -%}{%- endmacro -%}{% set ns = namespace(n=0, seen=[]) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + (m.content or '') | length %}{{ show(m) }}{% endfor %}{{ ns.n }}",
        "{# note #}{% set x %}a{{ 1.5e3 // 2 }}{% endset %}{% raw %}{{ no }}{% endraw %}{{ x.split('a')[-1].strip() or 'none' if x else messages[0:1] | map(attribute='content') | join(', ') }}{% macro m() %}{{ caller('%05.1f|{:>4}' % 2.25) }}{% endmacro %}{% call(n) m() %}{{ n }}{% endcall %}{% for a, b in {'k': (1, [2, 3])}.items() recursive %}{{ b[1][::-1] }}{% break %}{% else %}-{% endfor %}",
        "{% if tools %}{% for tool in tools %}{{ tool.function | tojson(indent=2) }}{% for name, p in tool.function.parameters.properties.items() %}{{ name ~ p.type | list | sort | unique | join('/') }}{% endfor %}{% endfor %}{% endif %}{% for m in messages | selectattr('role', 'in', ['user', 'tool']) | rejectattr('content', 'none') %}{{ m.content if m.content is string else m.content | map(attribute='text') | join }}{% endfor %}",
        "{% with a = [3, 1, 2], b = 'x,y' %}{{ a | sort(reverse=true) | batch(2, 0) | list }}{{ a.index(1) }}{{ b.split(',') | first | title | center(9) | replace('X', 'é') }}{{ '%s %r %5.2f %x' % ('a', 'b', 1.5, 255) }}{{ '{0!r:>{1}} {k[0]}'.format('q', 5, k=[1]) }}{{ a[-2:] + [b[::-1]] }}{{ 7 // -2 ** 2 % 3 }}{{ strftime_now('%d %b %Y') }}{% endwith %}{{ [1, 2.0, 'z', none] | map('string') | join('-') | truncate(5, true, '..') | urlencode }}{{ dict(a=1) | items | list }}{{ range(0, 9, 2) | sum | round(1) }}{{ ' a b ' | wordcount | abs }}{% filter upper | indent(2, true) %}q\nw{% endfilter %}",
    ];

    private static readonly string[] Words =
    [
        "{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", "{{-", "|", "~", "**", "//", "%", "==", "!=", "<=", " is ", " not ", " in ", " if ", " else ", " and ", "for x in ", "endfor", "if ", "elif ", "endif", "set ", "endset", "macro m(a, b=1)", "endmacro", "call",
        "endcall", "raw", "endraw", "filter ", "with ", "recursive", "break", "continue", "generation", "loop", "loop.cycle(1, 2)", "loop(x)", "loop.previtem", "messages", "tools", "none", "namespace(", "range(", "range(10**9)", "raise_exception(", "caller()", "self", "m()",
        ".items()", ".split(", ".format(", ".replace(", ".strip(", ".pop(", ".append(messages)", ".update(a=1)", ".encode(", ".__class__", ".zfill(9)", ".ljust(99, 'x')", "|tojson", "|sort", "|join", "|list", "|map(attribute=", "|groupby('role')", "|first", "|last", "|min", "|int(0, 36)",
        "|float", "|round(400)", "|dictsort", "|unique", "|slice(3)", "|batch(99)", "|indent(99)", "|from_json", "|attr('x')", "|format(1)", "|reverse", "|truncate(3)", "[0]", "[-1]", "[::2]", "[::-1]", "[::0]", "[9223372036854775807:]", "'%c'", "'%*d'", "'{:,.999f}'", "'{!r}'", "1e308*10",
        "2**63", "\U0001F600", "\\ud800", "\\N{BULLET}", "\\x", "'a' * 99999", "[0] * 99999",
    ];

    [Fact]
    public void Template_RendersOrIsRefused()
    {
        var inputs = new Mutator(InputKind.Text, [.. Templates.Select(Seeds.Utf8), .. Seeds.Real("chat-templates", "*.jinja"), .. FuzzTarget.Finds("template")], Words);
        new FuzzTarget("template", inputs.Next, bytes =>
        {
            ChatTemplate template = ChatTemplate.Parse(Encoding.UTF8.GetString(bytes));
            for (int i = bytes.Length; i < bytes.Length + 2; i++) // two of them, in turns
            {
                (string messages, string? tools, string? extra) = Conversations[i % Conversations.Length];
                template.Render(JsonElement.Parse(messages), tools is null ? null : JsonElement.Parse(tools), i % 2 == 0, "<s>", "</s>", extra is null ? null : JsonElement.Parse(extra), text => text.Replace("<|", "<\uFDD0|"), DateTimeOffset.UnixEpoch);
            }
        })
        {
            Refuses = e => e is TemplateException,
            // The budget of a rendering, which a few bytes can spend: once here, and some times more to learn how the
            // template takes its messages.
            AllocationBase = 8 * sizeof(char) * RenderBudget.MaxCharacters,
            AllocationPerByte = 4096,
        }.Run();
    }
}
