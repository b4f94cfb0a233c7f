using System.CommandLine;
using System.Globalization;

namespace Native.Bench.Common;

/// <summary>Options that take several numbers.</summary>
internal static class NumberOptions
{
    /// <summary>An option of whole numbers with commas between them, each in a range. It can be repeated.</summary>
    public static Option<int[]> Integers(
        string name, string? alias, string helpName, string description, int least, int most, params int[] defaults) =>
        Numbers<int>(name, alias, helpName, description, ParseInteger, least, most, defaults);

    /// <summary>The same for numbers that need not be whole.</summary>
    public static Option<double[]> Reals(
        string name, string helpName, string description, double least, double most, params double[] defaults) =>
        Numbers<double>(name, null, helpName, description, ParseReal, least, most, defaults);

    private static int? ParseInteger(string text) =>
        int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value) ? value : null;

    private static double? ParseReal(string text) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) ? value : null;

    private static Option<T[]> Numbers<T>(
        string name, string? alias, string helpName, string description, Func<string, T?> parse, T least, T most,
        T[] defaults)
        where T : struct, IComparable<T>, IFormattable
    {
        Option<T[]> option = new(name, alias is null ? [] : [alias])
        {
            HelpName = helpName,
            Description = description,
            CustomParser = result =>
            {
                List<T> values = [];
                IEnumerable<string> parts = result.Tokens.SelectMany(token => token.Value.Split(','));
                foreach (string part in parts.Select(part => part.Trim()))
                {
                    if (parse(part) is not { } value)
                        result.AddError($"{name} has '{part}'; numbers with commas between them are expected.");
                    else if (!(value.CompareTo(least) >= 0 && value.CompareTo(most) <= 0))
                    {
                        result.AddError(string.Create(
                            CultureInfo.InvariantCulture, $"{name} is {value}; it must be from {least} to {most}."));
                    }
                    else values.Add(value);
                }
                return [.. values];
            },
        };
        if (defaults.Length > 0) option.DefaultValueFactory = _ => defaults;
        return option;
    }
}
