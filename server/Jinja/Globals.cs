using System.Globalization;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>The functions every chat template may call: Jinja2's own, and the two that transformers adds.</summary>
internal static class Globals
{
    // The sandbox of Jinja2 has the same bound.
    private const long MaxRange = 100_000;

    private static readonly BuiltinTable All = new()
    {
        { "range", "start stop? step?", Range },
        { "dict", "*", (i, _, a) => Methods.Update(i, new Dict(), a.All.Positional.FirstOrDefault(), a.All.Keywords) },
        { "namespace", "*", NewNamespace },
        { "raise_exception", "message",
            (i, _, a) => throw new TemplateException(Python.Str(a[0], i.Budget)) { IsRefusal = true } },
        { "strftime_now", "format", (i, _, a) => FormatTime(i, a.Text(0)) },
    };

    /// <summary>A scope with the functions, to put a template's variables into.</summary>
    public static Scope NewScope()
    {
        var scope = new Scope(null);
        foreach ((string name, Builtin function) in All) scope.Set(name, new BoundMethod(function, null));
        return scope;
    }

    private static object? Range(Interpreter i, object? self, Bound a)
    {
        long start = a.Has(1) ? a.Integer(0, 0) : 0;
        long stop = a.Has(1) ? a.Integer(1, 0) : a.Integer(0, 0);
        long step = a.Integer(2, 1);
        if (step == 0) throw new TemplateException("range() step must not be zero");
        Int128 distance = step > 0 ? (Int128)stop - start : (Int128)start - stop;
        Int128 count = distance <= 0 ? 0 : (distance - 1) / Int128.Abs(step) + 1;
        if (count > MaxRange) throw new TemplateException($"range() is longer than {MaxRange}");
        i.Budget.Elements((long)count);
        var list = new List<object?>((int)count);
        for (long n = 0; n < (long)count; n++) list.Add(start + n * step);
        return list;
    }

    private static object? NewNamespace(Interpreter i, object? self, Bound a)
    {
        var space = new Namespace();
        Methods.Update(i, space.Attributes, a.All.Positional.FirstOrDefault(), a.All.Keywords);
        return space;
    }

    /// <summary>C's strftime in the C locale; '-' after the percent sign drops the leading zero.</summary>
    private static string FormatTime(Interpreter i, string format)
    {
        i.Budget.Characters(format.Length * 32L);
        var result = new StringBuilder();
        for (int at = 0; at < format.Length; at++)
        {
            if (format[at] != '%' || at + 1 == format.Length)
            {
                result.Append(format[at]);
                continue;
            }
            bool bare = format[at + 1] == '-' && at + 2 < format.Length;
            at += bare ? 2 : 1;
            string field = TimeField(format[at], i.Now);
            result.Append(bare && field.TrimStart('0', ' ') is { Length: > 0 } trimmed ? trimmed : bare ? "0" : field);
        }
        return result.ToString();
    }

    private static string TimeField(char code, DateTimeOffset now)
    {
        CultureInfo c = CultureInfo.InvariantCulture;
        return code switch
        {
            'a' => now.ToString("ddd", c),
            'A' => now.ToString("dddd", c),
            'b' or 'h' => now.ToString("MMM", c),
            'B' => now.ToString("MMMM", c),
            'c' => $"{now.ToString("ddd MMM", c)} {now.Day,2} {now.ToString("HH:mm:ss yyyy", c)}",
            'C' => (now.Year / 100).ToString("00", c),
            'd' => now.ToString("dd", c),
            'D' or 'x' => now.ToString("MM'/'dd'/'yy", c),
            'e' => $"{now.Day,2}",
            'f' => now.ToString("ffffff", c),
            'F' => now.ToString("yyyy-MM-dd", c),
            'G' => ISOWeek.GetYear(now.DateTime).ToString(c),
            'H' => now.ToString("HH", c),
            'I' => now.ToString("hh", c),
            'j' => now.DayOfYear.ToString("000", c),
            'k' => $"{now.Hour,2}",
            'l' => $"{(now.Hour + 11) % 12 + 1,2}",
            'm' => now.ToString("MM", c),
            'M' => now.ToString("mm", c),
            'n' => "\n",
            'p' => now.Hour < 12 ? "AM" : "PM",
            'P' => now.Hour < 12 ? "am" : "pm",
            'r' => now.ToString("hh:mm:ss", c) + (now.Hour < 12 ? " AM" : " PM"),
            'R' => now.ToString("HH:mm", c),
            's' => now.ToUnixTimeSeconds().ToString(c),
            'S' => now.ToString("ss", c),
            't' => "\t",
            'T' or 'X' => now.ToString("HH:mm:ss", c),
            'u' => (((int)now.DayOfWeek + 6) % 7 + 1).ToString(c),
            'U' => ((now.DayOfYear + 6 - (int)now.DayOfWeek) / 7).ToString("00", c),
            'V' => ISOWeek.GetWeekOfYear(now.DateTime).ToString("00", c),
            'w' => ((int)now.DayOfWeek).ToString(c),
            'W' => ((now.DayOfYear + 6 - ((int)now.DayOfWeek + 6) % 7) / 7).ToString("00", c),
            'y' => now.ToString("yy", c),
            'Y' => now.ToString("yyyy", c),
            'z' or 'Z' => "", // datetime.now() knows no zone
            '%' => "%",
            _ => $"%{code}",
        };
    }
}
