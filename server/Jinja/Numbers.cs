using System.Globalization;
using System.Numerics;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>Python's reading and writing of numbers.</summary>
internal static class Numbers
{
    /// <summary>Digits of a radix, without sign; null when malformed or above 64 bits.</summary>
    public static long? ParseInteger(ReadOnlySpan<char> digits, int radix)
    {
        if (digits.IsEmpty) return null;
        long value = 0;
        foreach (char c in digits)
        {
            int digit = char.IsAsciiDigit(c) ? c - '0' : char.IsAsciiLetter(c) ? char.ToLowerInvariant(c) - 'a' + 10
                : radix;
            if (digit >= radix || value > (long.MaxValue - digit) / radix) return null;
            value = value * radix + digit;
        }
        return value;
    }

    /// <summary><c>int(text, radix)</c>: spaces around, a sign, a prefix of the radix and single underscores between
    /// digits; null when malformed or too large.</summary>
    public static long? ParsePythonInteger(string text, int radix)
    {
        ReadOnlySpan<char> digits = text.AsSpan().Trim();
        bool negative = digits.StartsWith("-");
        if (negative || digits.StartsWith("+")) digits = digits[1..];
        string prefix = radix switch { 16 => "0x", 8 => "0o", 2 => "0b", _ => "" };
        if (prefix.Length > 0 && digits.StartsWith(prefix, StringComparison.OrdinalIgnoreCase)) digits = digits[2..];
        if (digits.StartsWith("_") || digits.EndsWith("_") || digits.IndexOf("__") >= 0) return null;
        long? value = ParseInteger(digits.ToString().Replace("_", ""), radix);
        return negative ? -value : value;
    }

    /// <summary><c>float(text)</c>; null when malformed.</summary>
    public static double? ParsePythonFloat(string text)
    {
        string trimmed = text.Trim();
        string unsigned = trimmed.TrimStart('+', '-').ToLowerInvariant();
        if (trimmed.Length - unsigned.Length > 1) return null;
        double sign = trimmed.StartsWith('-') ? -1 : 1;
        if (unsigned is "inf" or "infinity") return sign * double.PositiveInfinity;
        if (unsigned == "nan") return double.NaN;
        const NumberStyles Style = NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent;
        return double.TryParse(unsigned.Replace("_", ""), Style, CultureInfo.InvariantCulture, out double value)
            ? sign * value : null;
    }

    /// <summary><c>repr(float)</c>: the shortest digits that read back the same, always with a point or an
    /// exponent.</summary>
    public static string Repr(double value)
    {
        if (double.IsNaN(value)) return "nan";
        if (double.IsInfinity(value)) return value > 0 ? "inf" : "-inf";
        string shortest = value.ToString("R", CultureInfo.InvariantCulture);
        string sign = shortest.StartsWith('-') ? "-" : "";
        (string digits, int exponent) = Decompose(shortest.TrimStart('-'));
        if (exponent is < -4 or >= 16)
        {
            string mantissa = digits.Length == 1 ? digits : $"{digits[0]}.{digits[1..]}";
            return $"{sign}{mantissa}e{(exponent < 0 ? '-' : '+')}{Math.Abs(exponent):00}";
        }
        if (exponent < 0) return $"{sign}0.{new string('0', -exponent - 1)}{digits}";
        if (exponent + 1 >= digits.Length) return $"{sign}{digits.PadRight(exponent + 1, '0')}.0";
        return $"{sign}{digits[..(exponent + 1)]}.{digits[(exponent + 1)..]}";
    }

    /// <summary>Significant digits and the decimal exponent of the first of them.</summary>
    private static (string Digits, int Exponent) Decompose(string number)
    {
        int e = number.IndexOf('E');
        int exponent =
            e < 0 ? 0 : int.Parse(number.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        string mantissa = e < 0 ? number : number[..e];
        int point = mantissa.IndexOf('.');
        string digits = mantissa.Replace(".", "");
        exponent += (point < 0 ? mantissa.Length : point) - 1;
        string significant = digits.TrimStart('0');
        exponent -= digits.Length - significant.Length;
        significant = significant.TrimEnd('0');
        return significant.Length == 0 ? ("0", 0) : (significant, exponent);
    }

    /// <summary>Digits after the point, correctly rounded, ties to even (C rounds so, and Python with it).</summary>
    public static string Fixed(double value, int precision)
    {
        // The exact expansion of a tie ends right after the 5; 30 more digits tell it from its neighbours.
        string exact = Math.Abs(value).ToString("F" + (precision + 30), CultureInfo.InvariantCulture);
        int cut = exact.Length - 30;
        string kept = exact[..cut].TrimEnd('.');
        string rest = exact[cut..];
        int half = string.CompareOrdinal(rest, "5".PadRight(30, '0'));
        if (half > 0 || (half == 0 && (kept[^1] - '0') % 2 == 1)) kept = Increment(kept);
        return (double.IsNegative(value) ? "-" : "") + kept;
    }

    private static string Increment(string number)
    {
        var digits = new StringBuilder(number);
        for (int i = digits.Length - 1; i >= 0; i--)
        {
            if (digits[i] == '.') continue;
            if (digits[i] != '9')
            {
                digits[i]++;
                return digits.ToString();
            }
            digits[i] = '0';
        }
        return "1" + digits;
    }

    /// <summary>A whole number of a document that needs more than 64 bits: it can be printed, not computed
    /// with.</summary>
    public static object FromJson(string raw)
    {
        if (raw.AsSpan().IndexOfAny(".eE") >= 0) return double.Parse(raw, CultureInfo.InvariantCulture);
        if (long.TryParse(raw, CultureInfo.InvariantCulture, out long value)) return value;
        return raw.Length <= 1000 ? BigInteger.Parse(raw, CultureInfo.InvariantCulture)
            : double.Parse(raw, CultureInfo.InvariantCulture);
    }
}
