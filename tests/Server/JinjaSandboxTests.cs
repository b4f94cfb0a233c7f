using System.Text.Json;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Tests.Server;

/// <summary>Whatever a template says, it renders or it fails with a <see cref="TemplateException"/>, within its
/// budget.</summary>
public sealed class JinjaSandboxTests
{
    private static string Render(string template) => ChatTemplate.Parse(template).Render(
        JsonElement.Parse("""[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi"}]"""), null, true, "<s>", "</s>", ct: TestContext.Current.CancellationToken);

    public static TheoryData<string, string, string> Nested => new()
    {
        { "{{ ", "(", " }}" },
        { "{{ ", "[", " }}" },
        { "{{ ", "{1:", " }}" },
        { "{{ ", "-", "1 }}" },
        { "{{ ", "not ", "1 }}" },
        { "{{ ", "a(", " }}" },
        { "{{ ", "a[", " }}" },
        { "{{ ", "1 if 1 else ", "1 }}" },
        { "{{ ", "1 + ", "1 }}" },
        { "{{ ", "1 ** ", "1 }}" },
        { "{{ ", "'a' ~ ", "1 }}" },
        { "{{ 1", " and 1", " }}" },
        { "{{ messages", ".x", " }}" },
        { "{{ '1'", "|string", " }}" },
        { "{{ 1", " is defined", " }}" },
        { "", "{% if 1 %}", "" },
        { "", "{% for a in [1] %}", "" },
        { "", "{% macro m() %}", "" },
        { "{% set ", "(", "a = 1 %}" },
        { "{{ ", "{", " }}" },
    };

    [Theory, MemberData(nameof(Nested))]
    public void DeepNesting_IsAnError(string before, string repeated, string after) => Assert.Throws<TemplateException>(
        () => Render(before + string.Concat(Enumerable.Repeat(repeated, 100_000)) + after));

    [Theory]
    [InlineData("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}")]
    [InlineData("{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}")]
    [InlineData("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}")]
    [InlineData("{% set a = [] %}{% set _ = a.append(a) %}{{ a }}")]
    [InlineData("{% set a = [] %}{% set _ = a.append(a) %}{% set b = [] %}{% set _ = b.append(b) %}{{ a == b }}")]
    public void EndlessRecursion_IsAnError(string template) =>
        Assert.Contains("deep", Assert.Throws<TemplateException>(() => Render(template)).Message);

    [Theory]
    [InlineData("{{ 'a' * 10**9 }}")]
    [InlineData("{{ ('a' * 10**7)|replace('a', 'b' * 1000) }}")]
    [InlineData("{{ ('a' * 10**6)|replace('', 'b' * 1000) }}")]
    [InlineData("{% set ns = namespace(s='a') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}")]
    [InlineData("{% set ns = namespace(s='a') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}")]
    [InlineData("{% set s = 'a' * 10**6 %}{% for i in range(1000) %}{{ s }}{% endfor %}")]
    [InlineData("{% set s = 'a' * 10**6 %}{% for i in range(1000) %}{% set t = s.upper() %}{% endfor %}")]
    [InlineData("{{ '%1000000000s' % 'a' }}")]
    [InlineData("{{ '{:>1000000000}'.format('a') }}")]
    [InlineData("{{ 'a'.center(10**9) }}")]
    [InlineData("{{ 'a'.zfill(10**9) }}")]
    [InlineData("{{ (['a' * 10**6] * 100) | join }}")]
    [InlineData("{{ range(99999)|join('a' * 10000) }}")]
    [InlineData("{{ ('\\n' * 10**5)|indent('a' * 10**4, blank=true) }}")]
    [InlineData("{{ [[1]] | tojson(indent='a' * 10**8) }}")]
    [InlineData("{% macro m() %}{{ 'a' * 10**7 }}{{ 'a' * 10**7 }}{% endmacro %}{{ m() }}")]
    public void TooMuchText_IsAnError(string template) =>
        Assert.Contains("more text than is allowed", Assert.Throws<TemplateException>(() => Render(template)).Message);

    [Theory]
    [InlineData("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")]
    [InlineData("{{ [1] * 10**9 }}")]
    [InlineData("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}")]
    [InlineData("{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}")]
    [InlineData("{% set s = 'a' * 10**6 %}{{ (s + s) in (s + 'b' + s) }}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}")]
    [InlineData("{% set a = 'a' * (8 * 10**6) %}{{ ('a' * (4 * 10**6) + 'b') in a }}")]
    [InlineData("{% set s = 'a' * 10**7 %}{% set d = {'x': 1} %}{% for i in range(99999) %}{{ d[s] }}{% endfor %}")]
    [InlineData("{% set s = '\U0001F600' * 10**6 %}{% for i in range(99999) %}{{ s[999999] }}{{ s|length }}{% endfor %}")]
    [InlineData("{{ range(99999)|map('string')|map('length')|batch(10**9, 1)|list }}")]
    [InlineData("{{ [1]|slice(10**12)|list }}")]
    [InlineData("{{ [1]|batch(10**18, 'x')|list }}")]
    [InlineData("{% set s = 'a b' * 10**6 %}{% for i in range(9999) %}{% set t = s.split('a') %}{% endfor %}")]
    [InlineData("{% set s = 'a b' * 10**6 %}{% for i in range(9999) %}{% set t = s|title %}{% endfor %}")]
    [InlineData("{% set s = '\x01' * 10**6 %}{% for i in range(9999) %}{% set t = s|tojson %}{% endfor %}")]
    [InlineData("{% set s = '😀' * 10**6 %}{% for i in range(9999) %}{% set t = s[::2] %}{% endfor %}")]
    public void TooManySteps_IsAnError(string template) =>
        Assert.Contains("steps", Assert.Throws<TemplateException>(() => Render(template)).Message);

    [Theory]
    [InlineData("{{ 2 ** 64 }}")]
    [InlineData("{{ 9223372036854775807 + 1 }}")]
    [InlineData("{{ 9223372036854775808 }}")]
    [InlineData("{{ (-9223372036854775807 - 1) // -1 }}")]
    [InlineData("{{ (-9223372036854775807 - 1)|abs }}")]
    [InlineData("{{ -(-9223372036854775807 - 1) }}")]
    [InlineData("{{ 1e300|int }}")]
    [InlineData("{{ 10 ** 400 * 1.0 }}")]
    [InlineData("{{ 1 // 0 }}")]
    [InlineData("{{ 1 / 0 }}")]
    [InlineData("{{ 1.5 % 0 }}")]
    [InlineData("{{ '%d' % 1e30 }}")]
    [InlineData("{{ range(10**10) }}")]
    [InlineData("{{ range(0, 9223372036854775807) }}")]
    [InlineData("{{ range(-9223372036854775807, 9223372036854775807, 9223372036854775807)[9] + 1 }}")]
    [InlineData("{{ {[1]: 2} }}")]
    [InlineData("{{ {}|dictsort(by='x') }}")]
    [InlineData("{{ [1, 'a']|sort }}")]
    [InlineData("{{ 1|nosuchfilter }}")]
    [InlineData("{{ 1 is nosuchtest }}")]
    [InlineData("{{ 'a'.__class__.__mro__ }}")]
    [InlineData("{{ ''.GetType() }}")]
    [InlineData("{{ messages.Count.x }}")]
    [InlineData("{{ none.x.y }}")]
    [InlineData("{{ [].pop() }}")]
    [InlineData("{{ 'abc'|truncate(1) }}")]
    [InlineData("{{ '{0[}'.format(1) }}")]
    [InlineData("{{ '{'.format(1) }}")]
    [InlineData("{{ '%(a)s' % 1 }}")]
    [InlineData("{{ '%' % 1 }}")]
    [InlineData("{{ '\\ud800' }}")]
    public void Nonsense_IsAnError(string template) => Assert.Throws<TemplateException>(() => Render(template));

    [Fact]
    public void AMissingElement_IsNotNamed_WhenItsNameCouldBeOfAnySize() => Assert.Equal(
        "|'dict object' has no element of type list",
        Render("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ {}[ns.x] }}|") +
        Assert.Throws<TemplateException>(() => Render("{{ {}[[]].a }}")).Message["chat template, line 1: ".Length..]);

    [Fact]
    public void SortingTakesAnyOrder_WithoutFailing() => Assert.Equal("3", Render("{{ [nan, 1.0, nan]|sort|length }}".Replace("nan", "('nan'|float)")));
}
